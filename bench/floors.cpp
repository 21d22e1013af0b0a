#include "bench/floors.h"

#include <algorithm>

namespace fulgur::bench {

namespace {

// Of attention tiles with fewer rows, as decode has them, our rate is that of packing, and says nothing about the
// least.
constexpr int64_t kTileRows = 16;

}  // namespace

std::vector<FloorTerm> Floors::of(const Work& work) {
  const FloorTerm moved{"bytes of other operators", "byte", double(work.bytes), memory_.copy};
  if (work.products.empty()) return {moved};
  std::vector<FloorTerm> terms;
  for (const MatrixProduct& p : work.products)
    add_terms(terms, std::vector{FloorTerm{described(p), "FLOP", p.flops, products_.of(p).best()}});
  const MatrixProduct& first = work.products.front();
  if (first.in_cache && first.m >= kTileRows) {
    if (moved.seconds() > seconds_of(terms)) return {{"bytes of attention", "byte", moved.amount, moved.rate}};
    return terms;
  }
  const FloorTerm read{
      first.in_cache ? "bytes of attention that reading bounds" : "bytes of products that reading bounds", "byte",
      double(work.bytes), memory_.read};
  if (read.seconds() > work.flops() / products_.peak(first)) return {read};
  return terms;
}

double seconds_of(std::span<const FloorTerm> terms) {
  double seconds = 0;
  for (const FloorTerm& term : terms) seconds += term.seconds();
  return seconds;
}

void add_terms(std::vector<FloorTerm>& to, std::span<const FloorTerm> terms) {
  for (const FloorTerm& term : terms) {
    const auto same = std::find_if(to.begin(), to.end(), [&](const FloorTerm& t) { return t.work == term.work; });
    if (same == to.end()) to.push_back(term);
    else same->amount += term.amount;
  }
}

}  // namespace fulgur::bench

#include "data/min_hash.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/shingles.h"

namespace fulgur {
namespace {

constexpr uint32_t kEmpty = UINT32_MAX;
constexpr double kCandidates = 0.99, kDeviations = 2;

double recall(double jaccard, int bands, int rows) { return 1 - std::pow(1 - std::pow(jaccard, rows), bands); }

}  // namespace

// Fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): a round throws every element into one bin, which keeps
// its least value; further rounds, with other hashes, fill only the bins that no earlier round has reached. Two sets
// agree in a bin with probability J whichever round decides it, so short texts are judged as truly as long ones, and a
// long one costs one hash for each element.
std::vector<uint32_t> min_hashes(std::span<const uint64_t> set, int hashes, uint64_t seed) {
  expect(!set.empty(), "a signature is of a set that is not empty");
  std::vector<uint32_t> least(size_t(hashes), kEmpty);
  std::vector<uint8_t> closed(size_t(hashes), 0);
  std::vector<size_t> reached;  // in this round
  uint64_t key = mixed(seed ^ 0x6d696e68617368);
  for (int open = hashes; open > 0; key += 0x9e3779b97f4a7c15) {
    for (const uint64_t element : set) {
      const uint64_t hash = mixed(element ^ key);
      const size_t bin = size_t((hash >> 32) * uint64_t(hashes) >> 32);
      if (closed[bin]) continue;
      if (least[bin] == kEmpty) reached.push_back(bin);
      least[bin] = std::min(least[bin], std::min(uint32_t(hash), kEmpty - 1));
    }
    for (const size_t bin : reached) closed[bin] = 1;
    open -= int(reached.size());
    reached.clear();
  }
  return least;
}

Banding banding_for(double jaccard, int hashes) {
  int rows = 1;
  while (rows < hashes && recall(jaccard, hashes / (rows + 1), rows + 1) >= kCandidates) ++rows;
  const double margin = kDeviations * std::sqrt(jaccard * (1 - jaccard) / hashes);
  const int matches = int(std::ceil((jaccard - margin) * hashes));
  return {hashes / rows, rows, std::max(matches, 1)};
}

}  // namespace fulgur

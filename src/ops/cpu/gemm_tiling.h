// How the matrix products divide their outputs among threads, and where they pack.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "base/threads.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/simd.h"

namespace fulgur::cpu {

constexpr int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }
constexpr int64_t rounded_up(int64_t count, int64_t size) { return pieces(count, size) * size; }

// Packing space. One per thread and kept: a product of an attention block is too short to allocate for, and which
// thread runs which tile is not known before it runs.
class PackSpace {
 public:
  static constexpr size_t kLine = 64;  // bytes of a cache line
  template <class T>
  T* reserve(int64_t elements) {
    const size_t bytes = size_t(elements) * sizeof(T);
    if (bytes > bytes_) {
      memory_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t(kLine))));
      bytes_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t(kLine)); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_ = 0;
};

// Columns [0, n) of k steps each, end to end in b.
template <class T>
void dequantise(const QuantisedColumns& columns, int64_t n, int64_t k, T* b) {
  for (int64_t j = 0; j < n; ++j) {
    const QuantisedColumns one = columns.from(j);
    row_dequantise(b + j * k, one.values, one.scales, k);
  }
}

// The outputs of one product, and the sum behind each.
struct Extent {
  int64_t m, n, k;
};

// A product cut into tiles of equal size, counted row of tiles by row of tiles.
struct Tiling {
  int64_t rows, columns;  // of a tile
  int64_t across;         // tiles side by side
  int64_t begin, end;     // their numbers among all tiles of the call
};

inline constexpr double kLeastCost = 20'000;  // cycles of a tile that repay waking a thread
// So that a thread which is late leaves its share to others. Products of many sizes need more for that.
inline constexpr int kTilesOfOne = 2, kTilesOfMany = 4;

// Halves the longer side until a tile costs at most `limit`: nearly square tiles pack the least.
template <class Cost>
Tiling tiling(const Extent& p, int64_t least_rows, int64_t least_columns, double limit, const Cost& cost) {
  int64_t down = 1, across = 1;
  Tiling t{p.m, rounded_up(p.n, least_columns), 1, 0, 0};
  while (cost(Extent{t.rows, t.columns, p.k}) > limit) {
    if (t.rows > t.columns && t.rows > least_rows) {
      t.rows = rounded_up(pieces(p.m, down *= 2), least_rows);
    } else if (t.columns > least_columns) {
      t.columns = rounded_up(pieces(p.n, across *= 2), least_columns);
    } else {
      break;
    }
  }
  t.across = pieces(p.n, t.columns);
  t.end = t.across * pieces(p.m, t.rows);
  return t;
}

// run(product, row, rows, column, columns) for every tile of products 0 ... count - 1 of extent(product).
template <class ExtentOf, class Cost, class Run>
void for_each_tile(Threads& threads, int64_t count, int64_t least_rows, int64_t least_columns, const ExtentOf& extent,
                   const Cost& cost, const Run& run) {
  std::vector<Tiling> tilings(static_cast<size_t>(count));
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += cost(extent(i));
  const int tiles_per_thread = threads.count() == 1 ? 1 : count == 1 ? kTilesOfOne : kTilesOfMany;
  const double limit = std::max(kLeastCost, total / (tiles_per_thread * threads.count()));
  int64_t tiles = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Extent e = extent(i);
    Tiling& t = tilings[size_t(i)];
    t = e.m > 0 && e.n > 0 ? tiling(e, least_rows, least_columns, limit, cost) : Tiling{};
    t.begin = tiles, tiles = t.end += tiles;
  }
  threads.for_each(tiles, [&](int64_t number) {
    const auto t = std::upper_bound(tilings.begin(), tilings.end(), number,
                                    [](int64_t n, const Tiling& one) { return n < one.end; });
    const int64_t i = t - tilings.begin(), row = (number - t->begin) / t->across * t->rows;
    const int64_t column = (number - t->begin) % t->across * t->columns;
    const Extent e = extent(i);
    run(i, row, std::min(t->rows, e.m - row), column, std::min(t->columns, e.n - column));
  });
}

}  // namespace fulgur::cpu

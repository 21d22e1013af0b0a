#include "ops/cpu/gemm.h"

#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "ops/cpu/gemm_tiles.h"

namespace fulgur::cpu {
namespace {

constexpr size_t kLine = 64;  // bytes of a cache line

// Packing space. One per thread and kept: a product of an attention block is too short to allocate for, and which
// thread runs which tile is not known before it runs.
class PackSpace {
 public:
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

PackSpace& pack_space() {
  thread_local PackSpace space;
  return space;
}

constexpr int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }
constexpr int64_t rounded_up(int64_t count, int64_t size) { return pieces(count, size) * size; }

template <class T>
const GemmKernel<T>& of_type(const GemmKernels& kernels) {
  if constexpr (std::is_same_v<T, float>) {
    return kernels.f32;
  } else {
    return kernels.f64;
  }
}

template <class T>
const GemmKernel<T>& picked() {
  static const GemmKernels& kernels = *gemm_kernels(isa());
  return of_type<T>(kernels);
}

// How many rows of packed a keep kDepth steps of k in the cache.
template <class T>
int64_t most_rows(const GemmKernel<T>& kernel) {
  return kernel.block_bytes / int64_t(sizeof(T)) / kDepth / kernel.rows * kernel.rows;
}

template <class T>
Product<T> part(const Product<T>& whole, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  Product<T> p = whole;
  p.c.data += row * p.c.row_stride + column;
  p.a.data += row * p.a.row_stride;
  p.b.data += column * p.b.column_stride;
  p.m = rows, p.n = columns;
  return p;
}

// Steps [begin, end) of k for a block of rows: a is packed once, each panel of b right before its use, so that b's
// panel is read from the nearest cache and a's from the next.
template <class T>
class Block {
 public:
  Block(const GemmKernel<T>& kernel, const Product<T>& product, T* space, int64_t begin, int64_t end)
      : kernel_(kernel), product_(product), begin_(begin), depth_(end - begin) {
    b_panel_ = space;
    tile_ = b_panel_ + kDepth * kernel.columns;
    a_panels_ = tile_ + kernel.rows * kernel.columns;
    for (int64_t row = 0; row < product.m; row += kernel.rows) {
      kernel.pack_rows(product.a.data + row * product.a.row_stride + begin * product.a.column_stride,
                       product.a.row_stride, product.a.column_stride, std::min(kernel.rows, product.m - row), depth_,
                       a_panels_ + row * depth_);
    }
  }

  static int64_t space(const GemmKernel<T>& kernel, int64_t rows, int64_t depth) {
    return (kDepth + kernel.rows) * kernel.columns + rounded_up(rows, kernel.rows) * depth + kPackSlack;
  }

  void run() {
    for (int64_t column = 0; column < product_.n; column += kernel_.columns)
      for (int64_t step = 0; step < depth_; step += kDepth)
        multiply_panel(column, step, std::min(kDepth, depth_ - step));
  }

 private:
  void multiply_panel(int64_t column, int64_t step, int64_t depth) {
    const Matrix<const T>& b = product_.b;
    const int64_t columns = std::min(kernel_.columns, product_.n - column);
    const T* panel = b.data + (begin_ + step) * b.row_stride + column * b.column_stride;
    int64_t stride = b.row_stride;
    // Few rows do not repay the copy of a panel whose columns already lie side by side.
    if (b.column_stride != 1 || columns < kernel_.columns || product_.m > 4 * kernel_.rows) {
      kernel_.pack_columns(panel, b.column_stride, b.row_stride, columns, depth, b_panel_);
      panel = b_panel_, stride = kernel_.columns;
    }
    const bool from_c = product_.store == Store::add || begin_ + step > 0;
    for (int64_t row = 0; row < product_.m; row += kernel_.rows) {
      const int64_t rows = std::min(kernel_.rows, product_.m - row);
      const T* a = a_panels_ + row * depth_ + step * kernel_.rows;
      T* const c = product_.c.data + row * product_.c.row_stride + column;
      if (columns == kernel_.columns) {
        kernel_.multiply[rows - 1](depth, a, panel, stride, c, product_.c.row_stride, from_c);
      } else {
        multiply_ragged(depth, a, panel, c, rows, columns, from_c);
      }
    }
  }

  // A tile with fewer columns than the kernel's goes through a copy of c.
  void multiply_ragged(int64_t depth, const T* a, const T* panel, T* c, int64_t rows, int64_t columns, bool from_c) {
    const int64_t stride = product_.c.row_stride;
    if (from_c) {
      for (int64_t i = 0; i < rows; ++i) {
        T* const line = std::copy_n(c + i * stride, columns, tile_ + i * kernel_.columns);
        std::fill(line, tile_ + (i + 1) * kernel_.columns, T(0));
      }
    }
    kernel_.multiply[rows - 1](depth, a, panel, kernel_.columns, tile_, kernel_.columns, from_c);
    for (int64_t i = 0; i < rows; ++i) std::copy_n(tile_ + i * kernel_.columns, columns, c + i * stride);
  }

  const GemmKernel<T>& kernel_;
  const Product<T>& product_;
  const int64_t begin_, depth_;
  T *b_panel_, *tile_, *a_panels_;
};

template <class T>
void clear(const Product<T>& p) {
  for (int64_t i = 0; i < p.m; ++i) std::fill_n(p.c.data + i * p.c.row_stride, p.n, T(0));
}

// A product cut into tiles of equal size, counted row of tiles by row of tiles.
struct Tiling {
  int64_t rows, columns;  // of a tile
  int64_t across;         // tiles side by side
  int64_t begin, end;     // their numbers among all tiles of the call
};

// Cycles of one core, roughly: a vector of fmas a cycle, half a cycle for each packed element.
template <class T>
double cost(const GemmKernel<T>& kernel, int64_t rows, int64_t columns, int64_t k) {
  const double fmas = double(rows) * double(columns) / double(kernel.columns);
  return double(k) * (fmas + 0.5 * double(rows + columns));
}

// Halves the longer side until a tile costs at most `limit`: nearly square tiles pack the least.
template <class T>
Tiling tiling(const GemmKernel<T>& kernel, const Product<T>& p, double limit) {
  int64_t down = 1, across = 1;
  Tiling t{p.m, rounded_up(p.n, kernel.columns), 1, 0, 0};
  while (cost(kernel, t.rows, t.columns, p.k) > limit) {
    if (t.rows > t.columns && t.rows > kernel.rows) {
      t.rows = pieces(p.m, down *= 2);
    } else if (t.columns > kernel.columns) {
      t.columns = rounded_up(pieces(p.n, across *= 2), kernel.columns);
    } else {
      break;
    }
  }
  t.across = pieces(p.n, t.columns);
  t.end = t.across * pieces(p.m, t.rows);
  return t;
}

template <class T>
void run_tile(const GemmKernel<T>& kernel, const Product<T>& p, const Tiling& t, int64_t number) {
  const int64_t row = number / t.across * t.rows, column = number % t.across * t.columns;
  multiply_tile(kernel, part(p, row, std::min(t.rows, p.m - row), column, std::min(t.columns, p.n - column)));
}

constexpr double kLeastCost = 20'000;  // cycles of a tile that repay waking a thread
// So that a thread which is late leaves its share to others. Products of many sizes need more for that.
constexpr int kTilesOfOne = 2, kTilesOfMany = 4;

template <class T>
void run_all(Threads& threads, const Product<T>* products, Tiling* tilings, int64_t count) {
  const GemmKernel<T>& kernel = picked<T>();
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += cost(kernel, products[i].m, products[i].n, products[i].k);
  const int tiles_per_thread = threads.count() == 1 ? 1 : count == 1 ? kTilesOfOne : kTilesOfMany;
  const double limit = std::max(kLeastCost, total / (tiles_per_thread * threads.count()));
  int64_t tiles = 0;
  for (int64_t i = 0; i < count; ++i) {
    Tiling& t = tilings[i];
    t = products[i].m > 0 && products[i].n > 0 ? tiling(kernel, products[i], limit) : Tiling{};
    t.begin = tiles, tiles = t.end += tiles;
  }
  threads.for_each(tiles, [&](int64_t number) {
    const Tiling* const t =
        std::upper_bound(tilings, tilings + count, number, [](int64_t n, const Tiling& one) { return n < one.end; });
    run_tile(kernel, products[t - tilings], *t, number - t->begin);
  });
}

}  // namespace

const GemmKernels* gemm_kernels(Isa isa) {
  if (!has(isa)) return nullptr;
  switch (isa) {
    case Isa::avx512: return gemm_kernels_avx512();
    case Isa::avx2: return gemm_kernels_avx2();
    case Isa::generic: return gemm_kernels_generic();
  }
  return nullptr;
}

template <class T>
void multiply_tile(const GemmKernel<T>& kernel, const Product<T>& p) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k <= 0) {
    if (p.store == Store::overwrite) clear(p);
    return;
  }
  const int64_t most = most_rows(kernel);
  for (int64_t row = 0; row < p.m; row += most) {
    const Product<T> block = part(p, row, std::min(most, p.m - row), 0, p.n);
    const int64_t rows = rounded_up(block.m, kernel.rows);
    const int64_t deepest = kernel.block_bytes / int64_t(sizeof(T)) / rows / kDepth * kDepth;
    const int64_t depth = std::min(p.k, std::max(deepest, kDepth));
    T* const space = pack_space().reserve<T>(Block<T>::space(kernel, rows, depth));
    for (int64_t k = 0; k < p.k; k += depth) Block<T>(kernel, block, space, k, std::min(p.k, k + depth)).run();
  }
}

template <class T>
void gemm_serial(const Product<T>& product) {
  multiply_tile(picked<T>(), product);
}

template <class T>
void gemm(Threads& threads, const Product<T>& product) {
  Tiling tiling;
  run_all(threads, &product, &tiling, 1);
}

template <class T>
void gemm_batch(Threads& threads, const Product<T>* products, int64_t count) {
  std::vector<Tiling> tilings(static_cast<size_t>(count));
  run_all(threads, products, tilings.data(), count);
}

template void multiply_tile(const GemmKernel<float>&, const Product<float>&);
template void multiply_tile(const GemmKernel<double>&, const Product<double>&);
template void gemm_serial(const Product<float>&);
template void gemm_serial(const Product<double>&);
template void gemm(Threads&, const Product<float>&);
template void gemm(Threads&, const Product<double>&);
template void gemm_batch(Threads&, const Product<float>*, int64_t);
template void gemm_batch(Threads&, const Product<double>*, int64_t);

}  // namespace fulgur::cpu

#include "ops/cpu/gemm.h"

#include <algorithm>
#include <type_traits>

#include "ops/cpu/gemm_tiles.h"
#include "ops/cpu/gemm_tiling.h"

namespace fulgur::cpu {
namespace {

PackSpace& pack_space() {
  thread_local PackSpace space;
  return space;
}

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
  if (p.quantised.values) p.quantised = p.quantised.from(column);
  else p.b.data += column * p.b.column_stride;
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

// b's columns are dequantised some at a time, so that they stay in the cache.
template <class T>
void multiply_dequantised(const GemmKernel<T>& kernel, const Product<T>& p) {
  constexpr int64_t kBytes = 1 << 20;
  thread_local PackSpace space;
  const int64_t columns = rounded_up(std::max<int64_t>(kBytes / (p.k * int64_t(sizeof(T))), 1), kernel.columns);
  T* const b = space.reserve<T>(std::min(columns, p.n) * p.k);
  for (int64_t column = 0; column < p.n; column += columns) {
    Product<T> some = part(p, 0, p.m, column, std::min(columns, p.n - column));
    dequantise(some.quantised, some.n, p.k, b);
    some.quantised = {}, some.b = {b, 1, p.k};
    multiply_tile(kernel, some);
  }
}

// Cycles of one core, roughly: a vector of fmas a cycle, half a cycle for each packed element.
template <class T>
double cost(const GemmKernel<T>& kernel, const Extent& e) {
  const double fmas = double(e.m) * double(e.n) / double(kernel.columns);
  return double(e.k) * (fmas + 0.5 * double(e.m + e.n));
}

template <class T>
void run_all(Threads& threads, const Product<T>* products, int64_t count) {
  const GemmKernel<T>& kernel = picked<T>();
  for_each_tile(
      threads, count, kernel.rows, kernel.columns,
      [&](int64_t i) {
        return Extent{products[i].m, products[i].n, products[i].k};
      },
      [&](const Extent& e) { return cost(kernel, e); },
      [&](int64_t i, int64_t row, int64_t rows, int64_t column, int64_t columns) {
        multiply_tile(kernel, part(products[i], row, rows, column, columns));
      });
}

}  // namespace

const GemmKernels* gemm_kernels(Isa isa) {
  if (!has(isa)) return nullptr;
  switch (isa) {
    case Isa::amx:
    case Isa::avx512: return gemm_kernels_avx512();
    case Isa::avx2: return gemm_kernels_avx2();
    case Isa::neon: return gemm_kernels_neon();
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
  if (p.quantised.values) return multiply_dequantised(kernel, p);
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
  run_all(threads, &product, 1);
}

template <class T>
void gemm_batch(Threads& threads, const Product<T>* products, int64_t count) {
  run_all(threads, products, count);
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

// The launch of Hopper's products of large tiles (ops/cuda/hopper_products.cuh): which operands they take, and how the
// kernels see them.
#pragma once
#include <algorithm>

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/hopper_products.cuh"

namespace fulgur::cuda::hopper_products {

inline constexpr int64_t kMost = int64_t(1) << 30;  // rows, columns and steps, as 32 bits count them

// What the copy engine and the stores of a part ask. A matrix of rows and columns.
template <class T>
bool is_even(const Strided<T>& matrix, int64_t rows, int64_t columns) {
  const bool by_rows = matrix.column == 1;
  const int64_t stride = by_rows ? matrix.row : matrix.column, length = by_rows ? columns : rows;
  return uintptr_t(matrix.data) % 16 == 0 && stride * int64_t(sizeof(T)) % 16 == 0 && stride >= length;
}
template <class A, class B, class C>
bool fits(const Factors<A, B, C>& f) {
  return is_hopper() && std::min({f.m, f.n, f.k}) > 0 && std::max({f.m, f.n, f.k}) < kMost && f.n % 8 == 0 &&
         is_even(f.a, f.m, f.k) && is_even(f.b, f.k, f.n) && is_even(f.c, f.m, f.n) && f.groups.b_apart % 8 == 0 &&
         f.groups.c_apart % 8 == 0;
}
// Whether groups' matrices lie apart, as those of b do where rows of groups are rows of c.
inline bool lie_apart(const Groups& groups) { return groups.count == 1 || groups.b_apart > 0; }

// A factor whose `lines` along c lie on rows of their own, k along them; or beside each other, k down.
template <class T>
TensorMap map_along(const Strided<T>& matrix, int64_t lines, int64_t k, const Groups& groups, int64_t apart, int box) {
  const int64_t stride = std::max(matrix.row, matrix.column);
  return tensor_map({matrix.data, k, lines, apart ? groups.count : 1, stride, apart, box});
}
template <class T>
TensorMap map_down(const Strided<T>& matrix, int64_t lines, int64_t k, const Groups& groups, int64_t apart) {
  const int64_t stride = std::max(matrix.row, matrix.column);
  return tensor_map({matrix.data, lines, k, apart ? groups.count : 1, stride, apart, kSteps});
}

template <Kind kKind, class C>
Product<kKind, C> product_of(const Factors<bf16, bf16, C>& f, bool wide) {
  using P = Product<kKind, C>;
  const int64_t apart = f.groups.b_apart;
  Groups groups = f.groups;
  groups.cut = std::min(groups.cut, kMost);
  return {.a = P::kTurnedA ? map_down(f.a, f.m, f.k, f.groups, 0) : map_along(f.a, f.m, f.k, f.groups, 0, kBlockRows),
          .b = P::kTurnedB ? map_down(f.b, f.n, f.k, f.groups, apart)
                           : map_along(f.b, f.n, f.k, f.groups, apart, kBoxLines),
          .c = f.c.data,
          .c_row = f.c.row,
          .m = int(f.m),
          .n = int(f.n),
          .k = int(f.k),
          .adds = f.adds,
          .wide = wide,
          .groups = groups};
}

// Of a product: how many parts there are at most, and the time that one takes, in columns times steps.
struct Load {
  int64_t parts, time;
  int64_t all() const { return parts * time; }
};
template <class A, class B, class C>
Load load_of(const Factors<A, B, C>& f, bool rows_along_k, bool wide) {
  const bool grouped = f.groups.begin != nullptr;
  const int64_t columns = wide ? kWide : kNarrow, down = divide_up(f.m, kClusterRows);
  const int64_t groups = !grouped ? 0 : rows_along_k ? down * (f.groups.count - 1) : std::min(f.groups.count, f.m);
  const int64_t steps = grouped && rows_along_k ? divide_up(f.k, f.groups.count) : f.k;
  return {(down + groups) * divide_up(f.n, columns), divide_up(steps, kSteps) * columns};
}

template <class... Parameters, class... Arguments>
void launch_clusters(Stream& stream, const char* name, int64_t parts, void (*kernel)(Parameters...),
                     const Arguments&... arguments) {
  const size_t bytes = sizeof(Shared) + 1024;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  const int64_t clusters = std::min(parts, processors() / kCluster);
  launch(stream, name, {dim3(unsigned(clusters * kCluster)), dim3(kProductThreads), bytes, kCluster, true}, kernel,
         arguments...);
}

}  // namespace fulgur::cuda::hopper_products

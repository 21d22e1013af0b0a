// Which of Hopper's kernels computes a product (ops/cuda/product_kernels.h), and their launch.
#include <algorithm>

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/hopper_few_rows_gated.cuh"
#include "ops/cuda/hopper_few_rows_int8.cuh"
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace hopper_products {
namespace {

constexpr int64_t kMost = int64_t(1) << 30;  // rows, columns and steps, as 32 bits count them
constexpr int64_t kFewRows = 128, kFewRowsOfGroup = 32;

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
bool lie_apart(const Groups& groups) { return groups.count == 1 || groups.b_apart > 0; }

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
  const int half = (wide ? kWide : kNarrow) / kCluster;
  Groups groups = f.groups;
  groups.cut = std::min(groups.cut, kMost);
  return {.a = P::kTurnedA ? map_down(f.a, f.m, f.k, f.groups, 0) : map_along(f.a, f.m, f.k, f.groups, 0, kBlockRows),
          .b = P::kTurnedB ? map_down(f.b, f.n, f.k, f.groups, apart) : map_along(f.b, f.n, f.k, f.groups, apart, half),
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
  launch(stream, name, {dim3(unsigned(clusters * kCluster)), dim3(kProductThreads), bytes, kCluster}, kernel,
         arguments...);
}

// `kernel`, in shared memory of its kind, on as many blocks of up to kRows rows by `outputs` as there may be.
template <int kRows, class SharedMemory, class F, class Operands>
void launch_few(Stream& stream, const char* name, const F& f, void (*kernel)(Operands), const Operands& operands,
                int outputs = kOutputs) {
  const size_t bytes = sizeof(SharedMemory) + 1024;
  const int64_t groups = f.groups.begin ? std::min(f.groups.count, f.m) : 0;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  launch(stream, name,
         {.blocks = dim3(unsigned(divide_up(f.n, outputs) * (divide_up(f.m, kRows) + groups))),
          .threads = dim3(kFewRowsThreads),
          .shared_bytes = bytes,
          .follows = true},
         kernel, operands);
}

// With three rows a group, one in twenty has none if all are as likely: its weights are then read for nothing.
template <class C>
bool likely_all(const Factors<bf16, bf16, C>& f) {
  return f.groups.begin && f.m >= 3 * f.groups.count;
}
template <class C>
FewRows<C> few_rows_of(const Factors<bf16, bf16, C>& f, const TensorMap& w, int rows_at_once) {
  return {.w = w,
          .x = map_along(f.a, f.m, f.k, f.groups, 0, rows_at_once),
          .y = f.c.data,
          .y_row = f.c.row,
          .rows = int(f.m),
          .out = int(f.n),
          .in = int(f.k),
          .groups = f.groups,
          .every_group = likely_all(f)};
}
template <int kRows, class C>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, C>& f) {
  const TensorMap w = map_along(f.b, f.n, f.k, f.groups, f.groups.b_apart, kOutputs);
  launch_few<kRows, FewRowsShared<kRows>>(stream, name, f, multiply_few<kRows, C>, few_rows_of(f, w, kRows));
}

TensorMap int8_map(const QuantisedWeights& w, const Factors<bf16, bf16, bf16>& f, int outputs) {
  return tensor_map({.data = w.values,
                     .columns = f.k,
                     .rows = f.n,
                     .count = f.groups.count,
                     .row_stride = f.k,
                     .apart = f.n * f.k,
                     .box_rows = outputs,
                     .element_bytes = 1});
}
template <int kRows>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const QuantisedWeights& w) {
  launch_few<kRows, FewRowsInt8Shared<kRows>>(
      stream, name, f, multiply_few_int8<kRows, bf16>,
      FewRowsInt8<bf16>{few_rows_of(f, int8_map(w, f, kOutputs), kRows), w.scales});
}

constexpr int kGatedOutputs = FewRowsGated::kPartOutputs;

FewRowsGated gated_of(const Factors<bf16, bf16, bf16>& f, const Gated& gated, const Gather& gather, const TensorMap& w,
                      const TensorMap& w_up) {
  return {.w = w,
          .w_up = w_up,
          .x = {f.a.data, f.a.row, gather.numbers, gather.count},
          .y = f.c.data,
          .gate = gated.gate,
          .up = gated.up,
          .y_row = f.c.row,
          .rows = int(f.m),
          .out = int(f.n),
          .in = int(f.k),
          .groups = f.groups,
          .every_group = likely_all(f)};
}
template <int kRows>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const Gated& gated,
                const Gather& gather) {
  const auto map = [&](const Strided<const bf16>& w) {
    return map_along(w, f.n, f.k, f.groups, f.groups.b_apart, kGatedOutputs);
  };
  launch_few<kRows, FewRowsGatedShared<kRows>>(stream, name, f, multiply_few_gated<kRows>,
                                               gated_of(f, gated, gather, map(f.b), map(gated.up_weights)),
                                               kGatedOutputs);
}
template <int kRows>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const Gated& gated,
                const Gather& gather, const QuantisedWeights& w, const QuantisedWeights& w_up) {
  const FewRowsGated operands =
      gated_of(f, gated, gather, int8_map(w, f, kGatedOutputs), int8_map(w_up, f, kGatedOutputs));
  launch_few<kRows, FewRowsGatedShared<kRows, FewRowsInt8Shared<kRows>>>(
      stream, name, f, multiply_few_gated_int8<kRows>, FewRowsInt8Gated{operands, w.scales, w_up.scales},
      kGatedOutputs);
}

template <class C>
bool is_few(const Factors<bf16, bf16, C>& f) {
  return f.m <= (f.groups.begin ? kFewRowsOfGroup * f.groups.count : kFewRows);
}

template <class C>
bool multiply_rows(Stream& stream, const char* name, const Factors<bf16, bf16, C>& f) {
  if (!fits(f) || !lie_apart(f.groups)) return false;
  if (!f.adds && is_few(f)) {
    if (f.m <= 8) launch_few<8>(stream, name, f);
    else if (f.m <= 32 || f.groups.begin) launch_few<32>(stream, name, f);
    else launch_few<64>(stream, name, f);
    return true;
  }
  const bool wide = load_of(f, false, true).parts >= processors() / kCluster;
  launch_clusters(stream, name, load_of(f, false, wide).parts, multiply_output<C>, product_of<Kind::output>(f, wide));
  return true;
}

constexpr int64_t kMostDown = 65535;  // of a grid's second axis

// Eight columns a thread.
__global__ void __launch_bounds__(kThreads)
    round_rows(const float* from, int64_t stride, bf16* to, int64_t rows, int64_t columns) {
  const int64_t column = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kChunk;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float v[kChunk];
    load<true>(v, from + row * stride + column, columns - column);
    store<true>(to + row * columns + column, v, columns - column);
  }
}

}  // namespace
}  // namespace hopper_products

bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y) {
  return hopper_products::multiply_rows(stream, name, y);
}
bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, float>& y) {
  return hopper_products::multiply_rows(stream, name, y);
}

namespace {

Factors<bf16, bf16, bf16> up_of(const Factors<bf16, bf16, bf16>& y, const Gated& gated) {
  return {y.a, gated.up_weights, y.c, y.m, y.n, y.k, y.adds, y.groups};
}
bool fits_gated(const Factors<bf16, bf16, bf16>& y, const Gated& gated) {
  namespace hopper = hopper_products;
  const uintptr_t kept = uintptr_t(gated.gate) | uintptr_t(gated.up);
  return hopper::fits(y) && hopper::fits(up_of(y, gated)) && kept % 16 == 0 && hopper::lie_apart(y.groups);
}

}  // namespace

bool multiply_few_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                                  const Gated& gated, const Gather& gather) {
  namespace hopper = hopper_products;
  if (!fits_gated(y, gated) || y.k % 8 != 0 || !hopper::is_few(y)) return false;
  if (y.m <= 8) hopper::launch_few<8>(stream, name, y, gated, gather);
  else hopper::launch_few<32>(stream, name, y, gated, gather);
  return true;
}

bool multiply_few_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                                  const Gated& gated, const Gather& gather, const QuantisedWeights& w,
                                  const QuantisedWeights& w_up) {
  namespace hopper = hopper_products;
  const uintptr_t values = uintptr_t(w.values) | uintptr_t(w_up.values);
  if (!fits_gated(y, gated) || y.k % 16 != 0 || values % 16 != 0 || !hopper::is_few(y)) return false;
  if (y.m <= 8) hopper::launch_few<8>(stream, name, y, gated, gather, w, w_up);
  else if (y.m <= 8 * y.groups.count) hopper::launch_few<16>(stream, name, y, gated, gather, w, w_up);
  else hopper::launch_few<32>(stream, name, y, gated, gather, w, w_up);
  return true;
}

bool multiply_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                              const Gated& gated) {
  namespace hopper = hopper_products;
  if (!fits_gated(y, gated)) return false;
  const Factors<bf16, bf16, bf16> up = up_of(y, gated);
  hopper::GatedProduct product{};
  static_cast<hopper::Product<hopper::Kind::output, bf16>&>(product) =
      hopper::product_of<hopper::Kind::output>(y, true);
  product.b_up = hopper::product_of<hopper::Kind::output>(up, true).b;
  product.gate = gated.gate, product.up = gated.up;
  hopper::launch_clusters(stream, name, hopper::load_of(y, false, false).parts, hopper::multiply_gated, product);
  return true;
}

bool has_few_rows(const Factors<bf16, bf16, bf16>& y) { return hopper_products::is_few(y); }

bool multiply_few_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                            const QuantisedWeights& w) {
  namespace hopper = hopper_products;
  if (!hopper::fits(y) || y.k % 16 != 0 || uintptr_t(w.values) % 16 != 0) return false;
  if (!hopper::is_few(y)) return false;
  if (y.m <= 8) hopper::launch_few<8>(stream, name, y, w);
  else if (y.m <= 8 * y.groups.count) hopper::launch_few<16>(stream, name, y, w);
  else hopper::launch_few<32>(stream, name, y, w);
  return true;
}

bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                        const Factors<bf16, bf16, float>& dw) {
  namespace hopper = hopper_products;
  if (!hopper::fits(dx) || !hopper::fits(dw) || !hopper::lie_apart(dx.groups)) return false;
  if (multiply_few_outputs(stream, name, dx, dw)) return true;
  const hopper::Load x = hopper::load_of(dx, false, true), w = hopper::load_of(dw, true, true);
  const int64_t clusters = processors() / hopper::kCluster, fair = (x.all() + w.all()) / clusters;
  const bool weights_first = w.time >= x.time;
  const bool wide_x = x.time <= fair, wide_w = w.time <= fair;
  const hopper::Load now_x = hopper::load_of(dx, false, wide_x), now_w = hopper::load_of(dw, true, wide_w);
  const int64_t head_start = dx.groups.begin ? 0 : weights_first ? now_w.time / now_x.time : now_x.time / now_w.time;
  hopper::launch_clusters(stream, name, now_x.parts + now_w.parts, hopper::multiply_gradients,
                          hopper::product_of<hopper::Kind::input_gradient>(dx, wide_x),
                          hopper::product_of<hopper::Kind::weight_gradient>(dw, wide_w),
                          hopper::Order{weights_first, int(head_start)});
  return true;
}

bool multiply_on_hopper(Stream& stream, const char* name, const Factors<float, bf16, bf16>& dx,
                        const Factors<float, bf16, float>& dw) {
  namespace hopper = hopper_products;
  const int64_t rows = dx.m, columns = dx.k;
  if (!hopper::fits(dx) || !hopper::fits(dw) || columns % kChunk != 0) return false;
  const Scratch rounded(stream, size_t(rows * columns) * sizeof(bf16));
  bf16* const dy = rounded.as<bf16>();
  const dim3 blocks(unsigned(divide_up(columns, kThreads * kChunk)), unsigned(std::min(rows, hopper::kMostDown)));
  launch(stream, name, {blocks, dim3(kThreads)}, hopper::round_rows, dx.a.data, dx.a.row, dy, rows, columns);
  const Factors<bf16, bf16, bf16> x{{dy, columns, 1}, dx.b, dx.c, dx.m, dx.n, dx.k, dx.adds, dx.groups};
  const Factors<bf16, bf16, float> w{{dy, 1, columns}, dw.b, dw.c, dw.m, dw.n, dw.k, dw.adds, dw.groups};
  return multiply_on_hopper(stream, name, x, w);
}

}  // namespace fulgur::cuda

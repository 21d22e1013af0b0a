// Which of Hopper's kernels computes a product (ops/cuda/product_kernels.h), and their launch.
#include "ops/cuda/hopper_fewest_rows_int8.cuh"
#include "ops/cuda/hopper_launch.cuh"
#include "ops/cuda/product_kernels.h"

namespace fulgur::cuda {
namespace hopper_products {
namespace {

constexpr int64_t kFewRows = 128, kFewRowsOfGroup = 32;
// Of shared memory, which four blocks share where every expert is likely to have rows: then all run at once.
constexpr int kQuarterBytes = 50 << 10;

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
template <int kRows, int kBytes, class C>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, C>& f) {
  using Stages = FewRowsShared<kRows, kBytes>;
  const TensorMap w = map_along(f.b, f.n, f.k, f.groups, f.groups.b_apart, kOutputs);
  launch_few<kRows, Stages>(stream, name, f, multiply_few<kRows, Stages, C>, few_rows_of(f, w, kRows));
}

TensorMap int8_map(const QuantisedWeights& w, const Factors<bf16, bf16, bf16>& f, int outputs) {
  return tensor_map({.data = w.values,
                     .columns = f.k,
                     .rows = f.n,
                     .count = f.groups.count,
                     .row_stride = f.k,
                     .apart = w.apart,
                     .box_rows = outputs,
                     .element_bytes = 1});
}
template <int kRows>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const QuantisedWeights& w) {
  using Stages = FewRowsInt8Shared<kRows, kQuarterBytes>;
  launch_few<kRows, Stages>(
      stream, name, f, multiply_few_int8<kRows, Stages, bf16>,
      FewRowsInt8<bf16>{few_rows_of(f, int8_map(w, f, kOutputs), kRows), w.scales, w.scales_apart});
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
template <int kRows, int kBytes>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const Gated& gated,
                const Gather& gather) {
  const auto map = [&](const Strided<const bf16>& w) {
    return map_along(w, f.n, f.k, f.groups, f.groups.b_apart, kGatedOutputs);
  };
  using Stages = FewRowsShared<kRows, kBytes>;
  launch_few<kRows, FewRowsGatedShared<kRows, Stages>>(stream, name, f, multiply_few_gated<kRows, Stages>,
                                                       gated_of(f, gated, gather, map(f.b), map(gated.up_weights)),
                                                       kGatedOutputs);
}
template <int kRows>
void launch_few(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const Gated& gated,
                const Gather& gather, const QuantisedWeights& w, const QuantisedWeights& w_up) {
  const FewRowsGated operands =
      gated_of(f, gated, gather, int8_map(w, f, kGatedOutputs), int8_map(w_up, f, kGatedOutputs));
  using Stages = FewRowsInt8Shared<kRows, kQuarterBytes>;
  launch_few<kRows, FewRowsGatedShared<kRows, Stages>>(
      stream, name, f, multiply_few_gated_int8<kRows, Stages>,
      FewRowsInt8Gated{operands, w.scales, w_up.scales, w.scales_apart}, kGatedOutputs);
}

template <bool kGated>
void launch_fewest(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& f, const Gated& gated,
                   const Gather& gather, const QuantisedWeights& w, const QuantisedWeights& w_up) {
  using F = FewestRowsInt8<kGated>;
  const int64_t parts = divide_up(f.n, F::kPartOutputs) * std::min(f.groups.count, f.m);
  launch(stream, name,
         {.blocks = dim3(unsigned(parts)), .threads = dim3(32), .shared_bytes = sizeof(FewestShared), .follows = true},
         multiply_fewest_int8<F>,
         F{.w = w,
           .w_up = w_up,
           .x = {f.a.data, f.a.row, gather.numbers, gather.count},
           .y = f.c.data,
           .gate = gated.gate,
           .up = gated.up,
           .y_row = f.c.row,
           .rows = int(f.m),
           .out = int(f.n),
           .in = int(f.k),
           .groups = f.groups});
}

template <class C>
bool is_few(const Factors<bf16, bf16, C>& f) {
  return f.m <= (f.groups.begin ? kFewRowsOfGroup * f.groups.count : kFewRows);
}

// Groups, on average.
template <class C>
bool has_few_each(const Factors<bf16, bf16, C>& f) {
  return f.m <= 8 * f.groups.count;
}

template <class C>
bool multiply_rows(Stream& stream, const char* name, const Factors<bf16, bf16, C>& f) {
  if (!fits(f) || !lie_apart(f.groups)) return false;
  if (!f.adds && is_few(f)) {
    if (f.m <= 8) launch_few<8, kFewRowsBytes>(stream, name, f);
    else if (likely_all(f) && has_few_each(f)) launch_few<16, kQuarterBytes>(stream, name, f);
    else if (likely_all(f)) launch_few<32, kQuarterBytes>(stream, name, f);
    else if (f.groups.begin || f.m <= 32) launch_few<32, kFewRowsBytes>(stream, name, f);
    else launch_few<64, kMoreRowsBytes>(stream, name, f);
    return true;
  }
  const bool wide = load_of(f, false, true).parts >= processors() / kCluster;
  launch_clusters(stream, name, load_of(f, false, wide).parts, multiply_output<Product<Kind::output, C>>,
                  product_of<Kind::output>(f, wide));
  return true;
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
  if (y.m <= 8) hopper::launch_few<8, hopper::kFewRowsBytes>(stream, name, y, gated, gather);
  else if (!hopper::likely_all(y)) hopper::launch_few<32, hopper::kFewRowsBytes>(stream, name, y, gated, gather);
  else if (hopper::has_few_each(y)) hopper::launch_few<16, hopper::kQuarterBytes>(stream, name, y, gated, gather);
  else hopper::launch_few<32, hopper::kQuarterBytes>(stream, name, y, gated, gather);
  return true;
}

bool multiply_few_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                                  const Gated& gated, const Gather& gather, const QuantisedWeights& w,
                                  const QuantisedWeights& w_up) {
  namespace hopper = hopper_products;
  const uintptr_t values = uintptr_t(w.values) | uintptr_t(w_up.values) | uintptr_t(w.apart);
  if (!fits_gated(y, gated) || y.k % 16 != 0 || values % 16 != 0 || !hopper::is_few(y)) return false;
  if (y.m <= hopper::kFewestRows) hopper::launch_fewest<true>(stream, name, y, gated, gather, w, w_up);
  else if (hopper::has_few_each(y)) hopper::launch_few<16>(stream, name, y, gated, gather, w, w_up);
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
  hopper::launch_clusters(stream, name, hopper::load_of(y, false, false).parts,
                          hopper::multiply_output<hopper::GatedProduct>, product);
  return true;
}

bool has_few_rows(const Factors<bf16, bf16, bf16>& y) { return hopper_products::is_few(y); }

bool multiply_few_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& y,
                            const QuantisedWeights& w) {
  namespace hopper = hopper_products;
  if (!hopper::fits(y) || y.k % 16 != 0 || (uintptr_t(w.values) | uintptr_t(w.apart)) % 16 != 0) return false;
  if (!hopper::is_few(y)) return false;
  if (y.m <= hopper::kFewestRows) hopper::launch_fewest<false>(stream, name, y, {}, {nullptr, y.m}, w, {});
  else if (hopper::has_few_each(y)) hopper::launch_few<16>(stream, name, y, w);
  else hopper::launch_few<32>(stream, name, y, w);
  return true;
}

}  // namespace fulgur::cuda

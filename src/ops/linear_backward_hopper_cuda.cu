// Both gradients of a product in one launch of Hopper's kernels (ops/cuda/product_kernels.h).
#include "ops/cuda/hopper_launch.cuh"
#include "ops/cuda/product_kernels.h"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace hopper_products {
namespace {

// Both gradients; dx_of(wide) is the product of dx.
template <class InputGradientOf>
bool multiply_both(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                   const Factors<bf16, bf16, float>& dw, const InputGradientOf& dx_of) {
  const Load x = load_of(dx, false, true), w = load_of(dw, true, true);
  const int64_t clusters = processors() / kCluster, fair = (x.all() + w.all()) / clusters;
  const bool weights_first = w.time >= x.time;
  const bool wide_x = x.time <= fair, wide_w = w.time <= fair;
  const Load now_x = load_of(dx, false, wide_x), now_w = load_of(dw, true, wide_w);
  const int64_t head_start = dx.groups.begin ? 0 : weights_first ? now_w.time / now_x.time : now_x.time / now_w.time;
  const auto dx_product = dx_of(wide_x);
  launch_clusters(stream, name, now_x.parts + now_w.parts, multiply_gradients<std::decay_t<decltype(dx_product)>>,
                  dx_product, product_of<Kind::weight_gradient>(dw, wide_w), Order{weights_first, int(head_start)});
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

bool multiply_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                        const Factors<bf16, bf16, float>& dw) {
  namespace hopper = hopper_products;
  if (!hopper::fits(dx) || !hopper::fits(dw) || !hopper::lie_apart(dx.groups)) return false;
  if (multiply_few_outputs(stream, name, dx, dw)) return true;
  return hopper::multiply_both(stream, name, dx, dw,
                               [&](bool wide) { return hopper::product_of<hopper::Kind::input_gradient>(dx, wide); });
}

bool multiply_gated_on_hopper(Stream& stream, const char* name, const Factors<bf16, bf16, bf16>& dx,
                              const Factors<bf16, bf16, float>& dw, const GateFactors& x) {
  namespace hopper = hopper_products;
  const uintptr_t beside = uintptr_t(x.gate) | uintptr_t(x.up) | uintptr_t(x.dup);
  if (!hopper::fits(dx) || !hopper::fits(dw) || beside % 16 != 0 || x.row % 8 != 0) return false;
  if (!hopper::lie_apart(dx.groups)) return false;
  return hopper::multiply_both(stream, name, dx, dw, [&](bool wide) {
    hopper::GateGradientProduct product{};
    static_cast<hopper::Product<hopper::Kind::input_gradient, bf16>&>(product) =
        hopper::product_of<hopper::Kind::input_gradient>(dx, wide);
    product.gate = x.gate, product.up = x.up, product.gate_row = x.row, product.dup = x.dup;
    return product;
  });
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

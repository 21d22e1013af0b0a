#include "ops/cpu/bf16_widened.h"

#include <algorithm>

#include "base/tensor.h"
#include "ops/cpu/gemm_tiles.h"
#include "ops/cpu/simd.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kMostLanes = 64, kSteps = 64;  // of a piece that is widened at once

// A piece of a panel in f32, lanes or steps side by side as they were.
struct Widened {
  float values[kMostLanes * kSteps];
  int64_t lane_stride, k_stride;
  Widened(const uint16_t* from, int64_t by_lane, int64_t by_k, int64_t lanes, int64_t k) {
    const bool along_k = by_k == 1;
    const int64_t lines = along_k ? lanes : k, length = along_k ? k : lanes, step = along_k ? by_lane : by_k;
    lane_stride = along_k ? kSteps : 1, k_stride = along_k ? 1 : kMostLanes;
    for (int64_t i = 0; i < lines; ++i)
      row_widen(values + i * (along_k ? kSteps : kMostLanes), reinterpret_cast<const bf16*>(from + i * step), length);
  }
};

void pack(GemmKernel<float>::Pack f32_pack, int64_t width, const uint16_t* from, int64_t lane_stride, int64_t k_stride,
          int64_t lanes, int64_t k, void* to) {
  for (int64_t p = 0; p < k; p += kSteps) {
    const int64_t steps = std::min(kSteps, k - p);
    const Widened piece(from + p * k_stride, lane_stride, k_stride, lanes, steps);
    f32_pack(piece.values, piece.lane_stride, piece.k_stride, lanes, steps, static_cast<float*>(to) + p * width);
  }
}

void pack_rows(const Bf16Kernel& self, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes,
               int64_t k, void* to) {
  pack(self.widened->pack_rows, self.rows, from, lane_stride, k_stride, lanes, k, to);
}

void pack_columns(const Bf16Kernel& self, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes,
                  int64_t k, void* to) {
  pack(self.widened->pack_columns, self.columns, from, lane_stride, k_stride, lanes, k, to);
}

void multiply(const Bf16Kernel& self, int64_t count, int64_t k, const Bf16Rows& a, const void* b, float* c,
              int64_t c_stride, bool from_c) {
  self.widened->multiply[count - 1](k, static_cast<const float*>(a.data), static_cast<const float*>(b), self.columns, c,
                                    c_stride, from_c);
}

void load_block(const Bf16Kernel& self, float* block, const void* c, bool c_is_bf16, int64_t c_stride, int64_t count,
                int64_t width) {
  for (int64_t i = 0; i < count; ++i, block += self.columns) {
    if (c_is_bf16) row_widen(block, static_cast<const bf16*>(c) + i * c_stride, width);
    else std::copy_n(static_cast<const float*>(c) + i * c_stride, width, block);
    std::fill(block + width, block + self.columns, 0.0F);
  }
}

void store_block(const Bf16Kernel& self, const float* block, void* c, bool c_is_bf16, int64_t c_stride, int64_t count,
                 int64_t width) {
  for (int64_t i = 0; i < count; ++i, block += self.columns) {
    if (c_is_bf16) row_narrow(static_cast<bf16*>(c) + i * c_stride, block, width);
    else std::copy_n(block, width, static_cast<float*>(c) + i * c_stride);
  }
}

}  // namespace

Bf16Kernel bf16_kernel_widened(Isa isa) {
  const GemmKernel<float>& f32 = gemm_kernels(isa)->f32;
  return {.rows = f32.rows,
          .columns = f32.columns,
          .step = 1,
          .row_grain = 1,
          .element_bytes = 4,
          .pack_rows = pack_rows,
          .pack_columns = pack_columns,
          .multiply = multiply,
          .load_block = load_block,
          .store_block = store_block,
          .widened = &f32};
}

}  // namespace fulgur::cpu

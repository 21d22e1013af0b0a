// y = x w^T of at most 8 rows in all by experts whose weights are int8, for Hopper, and the same gated: each warp on
// its own, so that all processors read the weights of one or two experts. The bits of
// ops/cuda/hopper_few_rows_int8.cuh.
//
// A warp computes eight outputs twice: of gate and of up, or the next eight. It copies stages of their weights' rows,
// and of its rows of x. A lane takes four steps of the weights at once; the 16 that it then multiplies are not those of
// neighbouring lanes that a product names, but the same ones on either side, and their order among themselves is the
// matrix unit's.
#pragma once
#include "ops/cuda/hopper_few_rows_int8.cuh"

namespace fulgur::cuda::hopper_products {

inline constexpr int kFewestRows = 8;

template <bool kIsGated>
struct FewestRowsInt8 {
  static constexpr bool kGated = kIsGated;
  static constexpr int kPartOutputs = kGated ? 8 : 16;
  QuantisedWeights w, w_up;  // w_up: gated
  GatheredRows x;            // numbers: null where rows lie in order
  bf16 *y, *gate, *up;       // gate, up: gated; null where they are not kept
  int64_t y_row;
  int rows, out, in;
  Groups groups;
};

// Pieces of 16 bytes lie in a row where eight rows' same pieces of weights, and four rows' same two of x, are in
// different banks.
struct FewestShared {
  static constexpr int kStages = 2, kStageSteps = 512, kPiece = 16, kPieces = kStageSteps / kPiece;  // of weights
  static constexpr int kStageScales = kStageSteps / int(kScaleColumns);
  struct Stage {
    uint8_t w[2 * 8][kPieces][kPiece], x[kFewestRows][2 * kPieces][kPiece];
  };
  Stage stages[kStages];
};
__device__ inline uint8_t* weight_piece(FewestShared::Stage& stage, int row, int piece) {
  return stage.w[row][piece ^ row % 8];
}
__device__ inline uint8_t* x_piece(FewestShared::Stage& stage, int row, int piece) {
  return stage.x[row][piece ^ row % 4 * 2];
}

// Weights of a part's first or second eight outputs, and how many there are: no more than these are read.
struct EightOutputs {
  const int8_t* values;
  const float* scales;
  int count;
};
template <bool kGated>
__device__ inline EightOutputs eight_outputs(const FewestRowsInt8<kGated>& f, const FewRowsPart& part, int half) {
  const QuantisedWeights& w = kGated && half == 1 ? f.w_up : f.w;
  const int out = part.out + (kGated ? 0 : 8 * half);
  const int64_t count = scale_count(f.in);
  return {w.values + part.group * w.apart + int64_t(out) * f.in, w.scales + part.group * w.scales_apart + out * count,
          f.out - out};
}

// What a warp copies, and scales of a lane's outputs, one of either eight.
template <class F>
class FewestLoader {
 public:
  using S = FewestShared;

  __device__ FewestLoader(S& shared, const F& f, const FewRowsPart& part)
      : shared_(shared),
        f_(f),
        weights_{eight_outputs(f, part, 0), eight_outputs(f, part, 1)},
        lane_(int(threadIdx.x)),
        rows_(part.row_end - part.row),
        number_(part.row + lane_) {}

  __device__ void ask_weights(int stage) const {
    const int column = stage * S::kStageSteps + lane_ * S::kPiece;
    if (stage * S::kStageSteps >= f_.in) return;
#pragma unroll
    for (int row = 0; row < 16; ++row) {
      const EightOutputs& from = weights_[row / 8];
      copy_async(weight_piece(shared_.stages[stage % S::kStages], row, lane_),
                 from.values + int64_t(row % 8) * f_.in + column, row % 8 < from.count && column < f_.in);
    }
  }

  // Lane r finds row r's number.
  __device__ void find_rows() {
    if (f_.x.numbers) number_ = lane_ < rows_ ? f_.x.numbers[number_] : -1;
  }
  __device__ void ask_rows(int stage) const {
    if (stage * S::kStageSteps >= f_.in) return;
    for (int row = 0; row < rows_; ++row) {
      const int number = __shfl_sync(kAllLanes, number_, row);
#pragma unroll
      for (int piece = lane_; piece < 2 * S::kPieces; piece += 32) {
        const int column = stage * S::kStageSteps + piece * kChunk;
        const bool there = number >= 0 && number < f_.x.count && column < f_.in;
        copy_async(x_piece(shared_.stages[stage % S::kStages], row, piece),
                   f_.x.data + (there ? number * f_.x.row + column : 0), there);
      }
    }
  }

  __device__ void fetch_scales(float (&scales)[2][S::kStageScales], int stage) const {
    const int count = int(scale_count(f_.in)), output = lane_ / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < S::kStageScales; ++i) {
        const int number = stage * S::kStageScales + i;
        const bool there = output < weights_[half].count && number < count;
        scales[half][i] = there ? weights_[half].scales[output * count + number] : 0;
      }
  }

 private:
  S& shared_;
  const F& f_;
  EightOutputs weights_[2];
  int lane_, rows_, number_;
};

// A stage's products, two times 16 steps at once.
__device__ inline void multiply_fewest(float (&sums)[4], FewestShared::Stage& stage,
                                       const uint32_t (&scales)[2][FewestShared::kStageScales]) {
  const int lane = int(threadIdx.x);
#pragma unroll
  for (int piece = 0; piece < FewestShared::kPieces; piece += 2) {
    const int scale = piece * FewestShared::kPiece / int(kScaleColumns);
    uint32_t numbers[4];  // four of either eight's, then those of the next piece
    load_matrices(numbers, reinterpret_cast<const bf16*>(weight_piece(stage, lane % 16, piece + lane / 16)));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t w[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t bytes = numbers[2 * i + half] ^ 0x80808080;
        w[half] = dequantised_halves(__byte_perm(bytes, 0, 0x4140), scales[half][scale]);
        w[2 + half] = dequantised_halves(__byte_perm(bytes, 0, 0x4342), scales[half][scale]);
      }
      const uint8_t* const from = x_piece(stage, lane / 4, 2 * (piece + i) + lane % 4 / 2) + lane % 2 * 8;
      const uint2 x = *reinterpret_cast<const uint2*>(from);
      multiply_add_16(sums, w, x.x, x.y);
    }
  }
}

template <class F>
__device__ void sum_fewest(float (&sums)[4], FewestShared& shared, const F& f, const FewRowsPart& part) {
  using S = FewestShared;
  FewestLoader<F> loader(shared, f, part);
  for (int i = 0; i < S::kStages; ++i) loader.ask_weights(i);
  loader.find_rows();
  for (int i = 0; i < S::kStages; ++i) loader.ask_rows(i), commit_copies();
  float next[2][S::kStageScales];
  loader.fetch_scales(next, 0);
  for (int i = 0; i * S::kStageSteps < f.in; ++i) {
    uint32_t scales[2][S::kStageScales];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < S::kStageScales; ++j) scales[half][j] = large_scale(next[half][j]);
    loader.fetch_scales(next, i + 1);
    wait_for_copies<S::kStages - 1>();
    __syncwarp();
    multiply_fewest(sums, shared.stages[i % S::kStages], scales);
    __syncwarp();
    loader.ask_weights(i + S::kStages), loader.ask_rows(i + S::kStages), commit_copies();
  }
}

// A lane has two rows of an output of either eight.
template <class F>
__device__ void finish_fewest(const float (&sums)[4], const F& f, const FewRowsPart& part) {
  const int out = part.out + int(threadIdx.x) / 4, row = part.row + int(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = (row + i) * f.y_row + out;
    if (row + i >= part.row_end || out >= f.out) continue;
    if constexpr (F::kGated) {
      if (f.gate) put_number(f.gate + at, sums[i]), put_number(f.up + at, sums[2 + i]);
      const uint32_t pair = bf16_pair(sums[i], sums[2 + i]);
      put_number(f.y + at, gated(low_half(pair), high_half(pair)));
    } else {
      put_number(f.y + at, sums[i]);
      if (out + 8 < f.out) put_number(f.y + at + 8, sums[2 + i]);
    }
  }
}

template <class F>
__global__ void __launch_bounds__(32) multiply_fewest_int8(const __grid_constant__ F f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  let_next_begin();
  auto& shared = *reinterpret_cast<FewestShared*>(dynamic_shared());
  const int across = int(divide_up(f.out, F::kPartOutputs));
  FewRowsPart part{.group = 0, .out = int(blockIdx.x) % across * F::kPartOutputs, .row = 0, .row_end = 0};
  await_previous();
  if (find_tile<kFewestRows>(f.groups, 0, int(blockIdx.x) / across, part)) {
    float sums[4] = {};
    sum_fewest(sums, shared, f, part);
    finish_fewest(sums, f, part);
  }
  clear_ungrouped(f);
#endif
}

}  // namespace fulgur::cuda::hopper_products

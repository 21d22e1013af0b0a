// y = g w^T of few rows, g = gated_rms_norm(x), for Hopper, in one launch. The bits of gated_rms_norm and of
// ops/cuda/hopper_few_rows.cuh.
//
// A thread block computes 64 outputs of all rows: one warp asks for weights, eight compute the norm into the stages'
// tiles, four multiply. Every block computes the whole norm, whose operands come from the cache.
#pragma once
#include "ops/cuda/gated_norm.cuh"
#include "ops/cuda/hopper_few_rows.cuh"

namespace fulgur::cuda::hopper_products {

inline constexpr int kNormWarps = 8, kNormedThreads = kFewRowsThreads + 32 * kNormWarps;

struct FewRowsNormed {
  static constexpr int kPartOutputs = kOutputs;
  static constexpr bool kGathers = true;  // threads write the tiles of x
  TensorMap w;
  Rows<const bf16> x, gate;
  const bf16* weight;
  Rows<const float> squares;
  float whole_width, eps;
  bf16* y;
  int64_t y_row;
  int rows, out, in;  // rows: a tile's at most
};

__device__ inline void prefetch_maps(const FewRowsNormed& f) { prefetch_map(f.w); }
template <class Stage>
__device__ inline void copy_weights(Stage& stage, const FewRowsNormed& f, int k, const FewRowsPart& part,
                                    uint32_t full) {
  copy_box(shared_address(stage.w), f.w, k, part.out, 0, full);
}

// Of a row, heads ascending; loads of many heads are on their way together.
__device__ inline float inverse_rms_of_row(const FewRowsNormed& f, int row) {
  constexpr int kHeadsAtOnce = 32;
  const int heads = int(f.squares.count);
  float sum = 0;
  for (int first = 0; first < heads; first += kHeadsAtOnce) {
    float squares[kHeadsAtOnce];
#pragma unroll
    for (int i = 0; i < kHeadsAtOnce; ++i) squares[i] = first + i < heads ? f.squares[first + i][row] : 0;
#pragma unroll
    for (int i = 0; i < kHeadsAtOnce; ++i)
      if (first + i < heads) sum += squares[i];
  }
  return inverse_rms_of(sum, f.whole_width, f.eps);
}

// A strip is a row's columns of one stage; strips go stage by stage. A warp takes four at a time, a lane 16 bytes of
// one of them.
inline constexpr int kStripLanes = kSteps / kChunk, kStripsAtOnce = kNormWarps * 32 / kStripLanes;

class Strip {
 public:
  // The thread's at a turn, and its weights, which no kernel before writes.
  __device__ void begin(const FewRowsNormed& f, int turn) {
    const int thread = int(threadIdx.x) - kFewRowsThreads, number = turn * kStripsAtOnce + thread / kStripLanes;
    row_ = number % f.rows, column_ = number / f.rows * kSteps + thread % kStripLanes * kChunk;
    weight_ = fetch<true>(f.weight + column_, f.in - column_);
  }
  __device__ void fetch_row(const FewRowsNormed& f) {
    x_ = fetch<true>(f.x[row_] + column_, f.in - column_), gate_ = fetch<true>(f.gate[row_] + column_, f.in - column_);
  }

  __device__ int stage() const { return column_ / kSteps; }
  __device__ int row() const { return row_; }
  __device__ void norm(float (&y)[kChunk], float inverse_rms) const {
    float weight[kChunk], gate[kChunk];
    unpack(y, x_), unpack(weight, weight_), unpack(gate, gate_);
    gate_and_norm(y, inverse_rms, weight, gate);
  }
  __device__ bf16* place_in(uint8_t* tile) const {
    return reinterpret_cast<bf16*>(tile + tile_offset(row_, column_ % kSteps));
  }

 private:
  int row_, column_;
  Chunk<bf16> weight_, x_, gate_;
};

// By the warps of the norm. Lane r of each has the inverse rms of row r; columns beyond the last become zero.
template <int kRows>
__device__ void load_normed(FewRowsShared<kRows>& shared, const FewRowsNormed& f) {
  using S = FewRowsShared<kRows>;
  constexpr int kAhead = 2;
  const int lane = int(threadIdx.x) % 32, stages = stages_of<S>(f);
  const int turns = int(divide_up(stages * f.rows, kStripsAtOnce));
  Strip strips[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) strips[i].begin(f, i);
  await_previous();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) strips[i].fetch_row(f);
  const float inverse_rms = inverse_rms_of_row(f, min(lane, f.rows - 1));
  for (int turn = 0; turn < turns; turn += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const Strip strip = strips[i];
      strips[i].begin(f, turn + i + kAhead), strips[i].fetch_row(f);
      float y[kChunk];
      strip.norm(y, __shfl_sync(kAllLanes, inverse_rms, strip.row()));
      const bool there = strip.stage() < stages;
      const int at = strip.stage() % S::kStages;
      if (there) await_room(shared, strip.stage()), store<true>(strip.place_in(shared.stages[at].x), y, kChunk);
      __syncwarp();
      if (there && lane % kStripLanes == 0) barrier_arrive(shared_address(&shared.full[at]));
    }
  }
}

template <int kRows>
__global__ void __launch_bounds__(kNormedThreads) multiply_few_normed(const __grid_constant__ FewRowsNormed f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  auto& shared = begin_few_rows<FewRowsShared<kRows>>(f, 1 + f.rows);
  const FewRowsPart part{.group = 0, .out = int(blockIdx.x) * kOutputs, .row = 0, .row_end = f.rows};
  if (threadIdx.x < kWarpgroup) {
    await_previous();
    float sums[kRows / 2];
    sum_few_rows(sums, shared, f, part);
    store_few_rows<kRows>(f, f.y, part, first_output(), sums);
  } else if (threadIdx.x < kFewRowsThreads) {
    const bool asks = threadIdx.x == kWarpgroup;
    const int asked = asks ? ask_early_weights(shared, f, part) : 0;
    await_previous();
    for (int i = asked; asks && i < stages_of<FewRowsShared<kRows>>(f); ++i)
      await_room(shared, i), ask_weights(shared, f, part, i);
  } else {
    load_normed<kRows>(shared, f);
  }
#endif
}

}  // namespace fulgur::cuda::hopper_products

// Few rows made as gated_rms_norm makes them and multiplied (ops/cuda/hopper_few_rows_made.cuh).
#pragma once
#include "ops/cuda/gated_norm.cuh"
#include "ops/cuda/hopper_few_rows_made.cuh"

namespace fulgur::cuda::hopper_products {

struct GatedRows {
  Rows<const bf16> x, gate;
  const bf16* weight;
  Rows<const float> squares;
  float whole_width, eps;
};
using FewRowsNormed = FewRowsMade<GatedRows>;

// Of a row, heads ascending; loads of many heads are on their way together.
__device__ inline float inverse_rms_of_row(const GatedRows& x, int row) {
  constexpr int kHeadsAtOnce = 32;
  const int heads = int(x.squares.count);
  float sum = 0;
  for (int first = 0; first < heads; first += kHeadsAtOnce) {
    float squares[kHeadsAtOnce];
#pragma unroll
    for (int i = 0; i < kHeadsAtOnce; ++i) squares[i] = first + i < heads ? x.squares[first + i][row] : 0;
#pragma unroll
    for (int i = 0; i < kHeadsAtOnce; ++i)
      if (first + i < heads) sum += squares[i];
  }
  return inverse_rms_of(sum, x.whole_width, x.eps);
}

// A strip is a row's columns of one stage; strips go stage by stage. A warp takes four at a time, a lane 16 bytes of
// one of them.
inline constexpr int kStripLanes = kSteps / kChunk, kStripsAtOnce = kMakers * 32 / kStripLanes;

class Strip {
 public:
  // The thread's at a turn, and its weights, which no kernel before writes.
  __device__ void begin(const FewRowsNormed& f, int turn) {
    const int thread = int(threadIdx.x) - kFewRowsThreads, number = turn * kStripsAtOnce + thread / kStripLanes;
    row_ = number % f.rows, column_ = number / f.rows * kSteps + thread % kStripLanes * kChunk;
    weight_ = fetch<true>(f.x.weight + column_, f.in - column_);
  }
  __device__ void fetch_row(const FewRowsNormed& f) {
    x_ = fetch<true>(f.x.x[row_] + column_, f.in - column_),
    gate_ = fetch<true>(f.x.gate[row_] + column_, f.in - column_);
  }

  __device__ int column() const { return column_; }
  __device__ int row() const { return row_; }
  __device__ void norm(float (&y)[kChunk], float inverse_rms) const {
    float weight[kChunk], gate[kChunk];
    unpack(y, x_), unpack(weight, weight_), unpack(gate, gate_);
    gate_and_norm(y, inverse_rms, weight, gate);
  }

 private:
  int row_, column_;
  Chunk<bf16> weight_, x_, gate_;
};

// Lane r of each warp has the inverse rms of row r; columns beyond the last become zero.
__device__ inline void make_rows(MadeShared& shared, const FewRowsNormed& f) {
  constexpr int kAhead = 2;
  const int lane = int(threadIdx.x) % 32, stages = stages_of<MadeShared>(f);
  const int turns = int(divide_up(stages * f.rows, kStripsAtOnce));
  Strip strips[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) strips[i].begin(f, i);
  await_previous();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) strips[i].fetch_row(f);
  const float inverse_rms = inverse_rms_of_row(f.x, min(lane, f.rows - 1));
  for (int turn = 0; turn < turns; turn += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const Strip strip = strips[i];
      strips[i].begin(f, turn + i + kAhead), strips[i].fetch_row(f);
      float y[kChunk];
      strip.norm(y, __shfl_sync(kAllLanes, inverse_rms, strip.row()));
      put_made(shared, stages, strip.row(), strip.column(), y);
    }
  }
}

}  // namespace fulgur::cuda::hopper_products

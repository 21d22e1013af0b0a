// A team a row, as in rms_norm: the sum stays in registers until its square is known; only of a row that is too wide
// for that it is made, or read, once more.
#include "ops/cuda/residual_join.cuh"
#include "ops/residual_norm.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kFewRows = 256;

// Few rows pay for the registers of what is fetched early.
template <bool kExperts, class T>
__global__ void __launch_bounds__(kThreads, 1) join_few_rows(ResidualRows<T> r) {
  let_next_begin();
  const int64_t row = Team<true>::row();
  typename WarpRow<T>::Weights weights;
  WarpRow<T>::fetch_weights(weights, r);
  await_previous();
  if (row >= r.y.count) return;
  WarpRow<T> joined;
  joined.template fetch<kExperts>(r, row);
  joined.template norm<kExperts>(r, row, weights, [](int) { return true; });
}

// v = sum's chunks at, at + step, ... of a row; of choices so many at once as there are registers for.
template <bool kExperts, bool kAligned, class T>
__device__ void join(float (&v)[kJoinChunks][kChunk], const ResidualRows<T>& r, int64_t row, int64_t at, int step) {
  constexpr int kSide = 2;
  if (kExperts)
#pragma unroll
    for (int a = 0; a < kJoinChunks; a += kSide) combine<kSide, kAligned>(v + a, r, row, at + a * step, step);
  JoinOperands<T> operands;
  operands.template fetch<kExperts, kAligned>(r, row, at, step);
  operands.template join<kExperts>(v, r);
#pragma unroll
  for (int a = 0; a < kJoinChunks; ++a)
    if (r.sum.data) store<kAligned>(r.sum[row] + at + a * step, v[a], r.sum.width - at - a * step);
}

template <bool kExperts, bool kWarp, bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, 3) join_and_norm(ResidualRows<T> r) {
  follow();
  using Mine = Team<kWarp>;
  const int64_t row = Mine::row(), width = r.y.width;
  constexpr int kStep = Mine::kSize * kChunk;
  const int64_t begin = Mine::thread() * kChunk;
  const bool kept = width <= kJoinChunks * kStep;
  if (row >= r.y.count) return;
  float v[kJoinChunks][kChunk], squares = 0;
  for (int64_t c = begin; c < width; c += kJoinChunks * kStep) {
    join<kExperts, kAligned>(v, r, row, c, kStep);
    add_squares(squares, v);
  }
  const float inverse_rms = inverse_rms_of(team_sum<kWarp>(squares), float(width), r.eps);
  if (r.inverse_rms && Mine::thread() == 0) r.inverse_rms[row] = inverse_rms;
  for (int64_t c = begin; c < width; c += kJoinChunks * kStep) {
    if (!kept) {
      if (!r.sum.data) join<kExperts, kAligned>(v, r, row, c, kStep);
      else
#pragma unroll
        for (int a = 0; a < kJoinChunks; ++a)  // what is carried may be gone
          load<kAligned>(v[a], r.sum[row] + c + a * kStep, width - c - a * kStep);
    }
#pragma unroll
    for (int a = 0; a < kJoinChunks; ++a) {
      float weight[kChunk];
      load<kAligned>(weight, r.weight + c + a * kStep, width - c - a * kStep);
      scale(v[a], inverse_rms, weight);
      store<kAligned>(r.y[row] + c + a * kStep, v[a], width - c - a * kStep);
    }
  }
}

}  // namespace

void residual_norm(Stream& stream, const ResidualNorm& op) {
  with_cuda_type(op.y.dtype, [&]<class T>() {
    const ResidualRows<T> rows = residual_rows_of<T>(op);
    const bool warps = op.y.dim(1) <= kWarpWidth, whole = aligned_rows(op);
    const auto run = [&]<bool kWarp>(void (*kernel)(ResidualRows<T>)) {
      launch_following(stream, "residual_norm", divide_up(op.y.dim(0), Team<kWarp>::kRows), dim3(kThreads), kernel,
                       rows);
    };
    with_flag(bool(op.place), [&]<bool kExperts>() {
      if (warps && whole && op.y.dim(0) <= kFewRows) return run.template operator()<true>(join_few_rows<kExperts, T>);
      with_flag(whole, [&]<bool kAligned>() {
        with_flag(warps,
                  [&]<bool kWarp>() { run.template operator()<kWarp>(join_and_norm<kExperts, kWarp, kAligned, T>); });
      });
    });
  });
}

}  // namespace fulgur::cuda

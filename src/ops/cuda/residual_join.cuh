// How a branch joins the residual stream and the next norm begins, in every kernel that has to do with it
// (ops/residual_norm.h): for files without contraction (CMakeLists.txt).
#pragma once
#include "ops/cuda/inverse_rms.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/residual_norm.h"

namespace fulgur::cuda {

inline constexpr int kJoinChunks = 4;   // of a thread, fetched before the first is added
inline constexpr int kSlotsAtOnce = 2;  // choices of a row that are fetched together

template <class T>
struct ResidualRows {
  Rows<T> y, sum;  // sum.data null: nobody reads it again
  Rows<const T> carried, branch;
  float alpha, beta;
  Rows<const float> expert_weights;
  Rows<const int32_t> place;  // of experts
  const T* weight;
  float eps;
  float* inverse_rms;  // or null
};
template <class T>
ResidualRows<T> residual_rows_of(const ResidualNorm& op) {
  return {.y = rows_of<T>(op.y),
          .sum = op.sum ? rows_of<T>(op.sum) : Rows<T>{},
          .carried = rows_of<const T>(op.carried),
          .branch = rows_of<const T>(op.branch),
          .alpha = float(op.alpha),
          .beta = float(op.beta),
          .expert_weights = op.place ? rows_of<const float>(op.expert_weights) : Rows<const float>{},
          .place = op.place ? rows_of<const int32_t>(op.place) : Rows<const int32_t>{},
          .weight = op.weight.elements<T>(),
          .eps = float(op.eps),
          .inverse_rms = op.inverse_rms ? op.inverse_rms.elements<float>() : nullptr};
}
inline bool aligned_rows(const ResidualNorm& op) {
  return aligned(op.y, op.carried, op.branch, op.weight) && (!op.sum || aligned(op.sum));
}

__device__ inline float not_a_number() { return __uint_as_float(0x7fffffff); }

// v = the row's choices added up in slot order, each product rounded first: kSide chunks at, at + step, ... of the row.
template <int kSide, bool kAligned, class T>
__device__ void combine(float (*v)[kChunk], const ResidualRows<T>& r, int64_t row, int64_t at, int step) {
  const int64_t width = r.branch.width;
  bool first = true;
#pragma unroll
  for (int a = 0; a < kSide; ++a)
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[a][i] = 0;
  for (int64_t slot = 0; slot < r.place.width; slot += kSlotsAtOnce) {
    int64_t from[kSlotsAtOnce];
    float weight[kSlotsAtOnce];
    Chunk<T> chunks[kSlotsAtOnce][kSide];
#pragma unroll
    for (int k = 0; k < kSlotsAtOnce; ++k) {
      const bool given = slot + k < r.place.width;
      from[k] = given ? r.place[row][slot + k] : -1;
      weight[k] = given ? r.expert_weights[row][slot + k] : 0;
    }
#pragma unroll
    for (int k = 0; k < kSlotsAtOnce; ++k) {
      const bool inside = from[k] >= 0 && from[k] < r.branch.count;
      if (!inside) weight[k] = not_a_number();
#pragma unroll
      for (int a = 0; a < kSide; ++a)
        chunks[k][a] =
            inside ? fetch<kAligned>(r.branch[from[k]] + at + a * step, width - at - a * step) : filled<T>(0);
    }
#pragma unroll
    for (int k = 0; k < kSlotsAtOnce; ++k) {
      if (from[k] == -1) continue;
#pragma unroll
      for (int a = 0; a < kSide; ++a) {
        float one[kChunk];
        unpack(one, chunks[k][a]);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          const float product = weight[k] * one[i];
          v[a][i] = first ? product : v[a][i] + product;
        }
      }
      first = false;
    }
  }
#pragma unroll
  for (int a = 0; a < kSide; ++a)
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[a][i] = float(T(v[a][i]));
}

// What a thread fetches of a row for its chunks at, at + step, ...
template <class T>
struct JoinOperands {
  Chunk<T> carried[kJoinChunks], branch[kJoinChunks];  // branch: not of experts

  template <bool kExperts, bool kAligned>
  __device__ void fetch(const ResidualRows<T>& r, int64_t row, int64_t at, int step) {
    const int64_t left = r.carried.width - at;
#pragma unroll
    for (int a = 0; a < kJoinChunks; ++a) {
      carried[a] = cuda::fetch<kAligned>(r.carried[row] + at + a * step, left - a * step);
      if (!kExperts) branch[a] = cuda::fetch<kAligned>(r.branch[row] + at + a * step, left - a * step);
    }
  }
  // v, of experts their sum, becomes the stream's. Both products are rounded before they are added, and their sum to T.
  template <bool kExperts>
  __device__ void join(float (&v)[kJoinChunks][kChunk], const ResidualRows<T>& r) const {
#pragma unroll
    for (int a = 0; a < kJoinChunks; ++a) {
      float one[kChunk];
      if (!kExperts) unpack(v[a], branch[a]);
      unpack(one, carried[a]);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[a][i] = float(T(r.alpha * one[i] + r.beta * v[a][i]));
    }
  }
};

// A thread's chunks of a row in the order in which every kernel adds them; its team's threads come after.
__device__ inline void add_squares(float& squares, const float (&v)[kJoinChunks][kChunk]) {
#pragma unroll
  for (int a = 0; a < kJoinChunks; ++a)
#pragma unroll
    for (int i = 0; i < kChunk; ++i) squares += v[a][i] * v[a][i];
}
__device__ inline void scale(float (&v)[kChunk], float inverse_rms, const float (&weight)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) v[i] = inverse_rms * v[i] * weight[i];
}

// A row of up to kWarpWidth columns, aligned, by a warp: for few rows, whose kernels are mostly waiting. A lane has
// the chunks at, at + kStep, ...
template <class T>
class WarpRow {
 public:
  static constexpr int kStep = 32 * kChunk;
  using Weights = Chunk<T>[kJoinChunks];
  __device__ static int at() { return int(threadIdx.x % 32) * kChunk; }
  // Before the kernels before have ended: none of a forward pass writes it.
  __device__ static void fetch_weights(Weights& weights, const ResidualRows<T>& r) {
#pragma unroll
    for (int a = 0; a < kJoinChunks; ++a)
      weights[a] = cuda::fetch<true>(r.weight + at() + a * kStep, r.y.width - at() - a * kStep);
  }

  template <bool kExperts>
  __device__ void fetch(const ResidualRows<T>& r, int64_t row) {
    operands_.template fetch<kExperts, true>(r, row, at(), kStep);
    if (kExperts) combine<kJoinChunks, true>(v_, r, row, at(), kStep);
  }
  // Of the row that was fetched. All that is wanted of it is left where it belongs, of the columns that `keeps`.
  template <bool kExperts, class Keeps>
  __device__ void norm(const ResidualRows<T>& r, int64_t row, const Weights& weights, const Keeps& keeps) {
    operands_.template join<kExperts>(v_, r);
    if (r.sum.data)
      for_each_chunk([&](int column, const float(&sum)[kChunk]) {
        if (keeps(column)) store<true>(r.sum[row] + column, sum, r.sum.width - column);
      });
    float squares = 0;
    add_squares(squares, v_);
    const float inverse_rms = inverse_rms_of(team_sum<true>(squares), float(r.y.width), r.eps);
    if (r.inverse_rms && threadIdx.x % 32 == 0 && keeps(0)) r.inverse_rms[row] = inverse_rms;
#pragma unroll
    for (int a = 0; a < kJoinChunks; ++a) {
      float weight[kChunk];
      unpack(weight, weights[a]), scale(v_[a], inverse_rms, weight);
    }
    for_each_chunk([&](int column, const float(&y)[kChunk]) {
      if (keeps(column)) store<true>(r.y[row] + column, y, r.y.width - column);
    });
  }
  // visit(column, chunk), by now of the norm; zeros beyond the last column.
  template <class Visit>
  __device__ void for_each_chunk(const Visit& visit) const {
#pragma unroll
    for (int a = 0; a < kJoinChunks; ++a) visit(at() + a * kStep, v_[a]);
  }

 private:
  JoinOperands<T> operands_;
  float v_[kJoinChunks][kChunk];
};

}  // namespace fulgur::cuda

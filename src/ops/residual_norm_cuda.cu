// A team a row, as in rms_norm: the sum stays in registers until its square is known; only of a row that is too wide
// for that it is made, or read, once more.
#include "ops/cuda/rows.cuh"
#include "ops/residual_norm.h"

namespace fulgur::cuda {
namespace {

constexpr int kKept = 4;   // chunks of a thread, fetched before the first is added
constexpr int kSlots = 2;  // choices of a row that are fetched together
constexpr int64_t kFewRows = 256;

__device__ float not_a_number() { return __uint_as_float(0x7fffffff); }

template <class T>
struct Sum {
  Rows<T> sum;  // data null: nobody reads it again
  Rows<const T> carried, branch;
  float alpha, beta;
  Rows<const float> expert_weights;
  Rows<const int32_t> place;  // of experts
};

// v = the row's choices added up in slot order, each product rounded first: kSide chunks at, at + step, ... of the row.
template <int kSide, bool kAligned, class T>
__device__ void combine(float (*v)[kChunk], const Sum<T>& s, int64_t row, int64_t at, int step) {
  const int64_t width = s.branch.width;
  bool first = true;
#pragma unroll
  for (int a = 0; a < kSide; ++a)
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[a][i] = 0;
  for (int64_t slot = 0; slot < s.place.width; slot += kSlots) {
    int64_t from[kSlots];
    float weight[kSlots];
    Chunk<T> chunks[kSlots][kSide];
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const bool given = slot + k < s.place.width;
      from[k] = given ? s.place[row][slot + k] : -1;
      weight[k] = given ? s.expert_weights[row][slot + k] : 0;
    }
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const bool inside = from[k] >= 0 && from[k] < s.branch.count;
      if (!inside) weight[k] = not_a_number();
#pragma unroll
      for (int a = 0; a < kSide; ++a)
        chunks[k][a] =
            inside ? fetch<kAligned>(s.branch[from[k]] + at + a * step, width - at - a * step) : filled<T>(0);
    }
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
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

// v = sum's chunks at, at + step, ... of a row. Both products are rounded before they are added, and their sum to T.
template <int kSide, bool kExperts, bool kAligned, class T>
__device__ void join(float (&v)[kKept][kChunk], const Sum<T>& s, int64_t row, int64_t at, int step) {
  const int64_t left = s.carried.width - at;
  constexpr bool kTogether = !kExperts || kSide == kKept;  // else there are registers for one after the other
  Chunk<T> carried[kKept], branch[kKept];
  const auto fetch_rows = [&] {
#pragma unroll
    for (int a = 0; a < kKept; ++a) {
      carried[a] = fetch<kAligned>(s.carried[row] + at + a * step, left - a * step);
      if (!kExperts) branch[a] = fetch<kAligned>(s.branch[row] + at + a * step, left - a * step);
    }
  };
  if (kTogether) fetch_rows();
  if (kExperts)
#pragma unroll
    for (int a = 0; a < kKept; a += kSide) combine<kSide, kAligned>(v + a, s, row, at + a * step, step);
  if (!kTogether) fetch_rows();
#pragma unroll
  for (int a = 0; a < kKept; ++a) {
    float one[kChunk];
    if (!kExperts) unpack(v[a], branch[a]);
    unpack(one, carried[a]);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[a][i] = float(T(s.alpha * one[i] + s.beta * v[a][i]));
    if (s.sum.data) store<kAligned>(s.sum[row] + at + a * step, v[a], left - a * step);
  }
}

// kEarly: of few rows, whose kernel is mostly waiting, the weight is fetched before the kernels before have ended; more
// rows would pay for its registers.
template <bool kEarly, bool kExperts, bool kWarp, bool kAligned, class T>
__global__ void __launch_bounds__(kThreads, kEarly ? 1 : 3)
    join_and_norm(Rows<T> y, Sum<T> s, const T* weight, float eps, float* inverse_rms) {
  let_next_begin();
  using Mine = Team<kWarp>;
  const int64_t row = Mine::row(), width = y.width;
  constexpr int kStep = Mine::kSize * kChunk;
  const int64_t begin = Mine::thread() * kChunk;
  const bool kept = width <= kKept * kStep;
  static_assert(!kEarly || kWarp);           // whose rows are kept
  constexpr int kSide = kEarly ? kKept : 2;  // chunks of choices that are fetched together
  Chunk<T> weights[kKept];
  if constexpr (kEarly)  // which no kernel of a forward pass writes
#pragma unroll
    for (int a = 0; a < kKept; ++a) weights[a] = fetch<kAligned>(weight + begin + a * kStep, width - begin - a * kStep);
  await_previous();
  if (row >= y.count) return;
  float v[kKept][kChunk], squares = 0;
  for (int64_t c = begin; c < width; c += kKept * kStep) {
    join<kSide, kExperts, kAligned>(v, s, row, c, kStep);
#pragma unroll
    for (int a = 0; a < kKept; ++a)
#pragma unroll
      for (int i = 0; i < kChunk; ++i) squares += v[a][i] * v[a][i];
  }
  const float inverse = 1 / sqrtf(team_sum<kWarp>(squares) / float(width) + eps);
  if (inverse_rms && Mine::thread() == 0) inverse_rms[row] = inverse;
  for (int64_t c = begin; c < width; c += kKept * kStep) {
    if (!kept) {
      if (!s.sum.data) join<kSide, kExperts, kAligned>(v, s, row, c, kStep);
      else
#pragma unroll
        for (int a = 0; a < kKept; ++a)  // what is carried may be gone
          load<kAligned>(v[a], s.sum[row] + c + a * kStep, width - c - a * kStep);
    }
#pragma unroll
    for (int a = 0; a < kKept; ++a) {
      float w[kChunk];
      if constexpr (kEarly) unpack(w, weights[a]);
      else load<kAligned>(w, weight + c + a * kStep, width - c - a * kStep);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) w[i] = inverse * v[a][i] * w[i];
      store<kAligned>(y[row] + c + a * kStep, w, width - c - a * kStep);
    }
  }
}

}  // namespace

void residual_norm(Stream& stream, const ResidualNorm& op) {
  with_cuda_type(op.y.dtype, [&]<class T>() {
    Sum<T> s{.sum = op.sum ? rows_of<T>(op.sum) : Rows<T>{},
             .carried = rows_of<const T>(op.carried),
             .branch = rows_of<const T>(op.branch),
             .alpha = float(op.alpha),
             .beta = float(op.beta),
             .expert_weights = {},
             .place = {}};
    if (op.place)
      s.expert_weights = rows_of<const float>(op.expert_weights), s.place = rows_of<const int32_t>(op.place);
    float* const inverse_rms = op.inverse_rms ? op.inverse_rms.elements<float>() : nullptr;
    const bool whole = aligned(op.y, op.carried, op.branch, op.weight) && (!op.sum || aligned(op.sum));
    const auto run = [&]<bool kEarly, bool kExperts, bool kWarp, bool kAligned>() {
      launch_following(stream, "residual_norm", divide_up(op.y.dim(0), Team<kWarp>::kRows), dim3(kThreads),
                       join_and_norm<kEarly, kExperts, kWarp, kAligned, T>, rows_of<T>(op.y), s,
                       static_cast<const T*>(op.weight.elements<T>()), float(op.eps), inverse_rms);
    };
    const bool warps = op.y.dim(1) <= kWarpWidth, early = warps && whole && op.y.dim(0) <= kFewRows;
    with_flag(bool(op.place), [&]<bool kExperts>() {
      if (early) return run.template operator()<true, kExperts, true, true>();
      with_flag(whole, [&]<bool kAligned>() {
        with_flag(warps, [&]<bool kWarp>() { run.template operator()<false, kExperts, kWarp, kAligned>(); });
      });
    });
  });
}

}  // namespace fulgur::cuda

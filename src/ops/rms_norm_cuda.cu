// y = (x * inverse) * weight, and dx = inverse * (dy * weight) - x * inverse^3 * mean(dy * weight * x).
//
// Forward keeps a row in registers until its sum is known; only of a row that is too wide for that, it reads all once
// more. Backward does the same for the rows of one piece, one after another, asks for the next row before it waits for
// this one's sum, and adds up the piece's part of the weight's gradient as it goes.
#include "ops/cuda/piece_sums.cuh"
#include "ops/rms_norm.h"

namespace fulgur::cuda {
namespace {

template <bool kWarp, bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    forward(Rows<T> y, Rows<const T> x, const T* weight, float eps, float* inverse_rms) {
  follow();
  using Mine = Team<kWarp>;
  const int64_t row = Mine::row(), width = x.width;
  if (row >= x.count) return;
  constexpr int kStep = Mine::kSize * kChunk, kKept = 4;  // chunks of a thread, fetched before the first is added
  const int64_t begin = Mine::thread() * kChunk;
  float v[kKept][kChunk], squares = 0;
  const auto fetch = [&](int64_t c) {
#pragma unroll
    for (int a = 0; a < kKept; ++a) load<kAligned>(v[a], x[row] + c + a * kStep, width - c - a * kStep);
  };
  for (int64_t c = begin; c < width; c += kKept * kStep) {
    fetch(c);
#pragma unroll
    for (int a = 0; a < kKept; ++a)
#pragma unroll
      for (int i = 0; i < kChunk; ++i) squares += v[a][i] * v[a][i];
  }
  const float inverse = 1 / sqrtf(team_sum<kWarp>(squares) / float(width) + eps);
  if (inverse_rms && Mine::thread() == 0) inverse_rms[row] = inverse;
  for (int64_t c = begin; c < width; c += kKept * kStep) {
    if (width > kKept * kStep) fetch(c);
#pragma unroll
    for (int a = 0; a < kKept; ++a) {
      const int64_t at = c + a * kStep, left = width - at;
      float w[kChunk];
      load<kAligned>(w, weight + at, left);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) w[i] = inverse * v[a][i] * w[i];
      store<kAligned>(y[row] + at, w, left);
    }
  }
}

template <class T>
struct Carried {
  Rows<const T> rows;  // null: none
  float alpha;
};

// Both products are rounded before they are added, and their sum to T, as blend has it.
template <class T>
__device__ float joined(float flow, float alpha, float carried) {
  return float(T(flow + alpha * carried));
}

struct Gradient {
  int64_t width;
  const float* inverse_rms;
  float* partial;  // [pieces, pitch]
  int64_t pitch;
};

// A block a piece; thread t keeps chunks t, t + blockDim.x, ... of its rows, kChunks of them.
template <int kChunks, int kMost, bool kAligned, class T>
__global__ void __launch_bounds__(kMost, 1)
    backward(Rows<T> dx, Rows<const T> dy, Carried<T> carried, Rows<const T> x, const T* weight, Gradient g) {
  __shared__ float places[2][kMost / 32], inverses[kPieceRows];
  const int64_t first = block_index() * kPieceRows, width = g.width;
  if (first >= x.count) return;
  const int64_t last = first + kPieceRows < x.count ? first + kPieceRows : x.count;
  const int64_t step = int64_t(blockDim.x) * kChunk, begin = int64_t(threadIdx.x) * kChunk;
  if (const int64_t row = first + threadIdx.x; row < last) inverses[threadIdx.x] = g.inverse_rms[row];
  float sums[kChunks][kChunk] = {};
  Chunk<T> flows[kChunks], ins[kChunks], besides[kChunks] = {};  // of the next row
  const bool joins = carried.rows.data != nullptr;
  const auto fetch_row = [&](int64_t row) {
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int64_t c = begin + k * step;
      flows[k] = fetch<kAligned>(dy[row] + c, width - c), ins[k] = fetch<kAligned>(x[row] + c, width - c);
      if (joins) besides[k] = fetch<kAligned>(carried.rows[row] + c, width - c);
    }
  };
  constexpr bool kAhead = kMost == kThreads;  // larger blocks have no registers for it
  if (kAhead) fetch_row(first);
  for (int64_t row = first; row < last; ++row) {
    if (!kAhead) fetch_row(row);
    float flow[kChunks][kChunk], in[kChunks][kChunk], along = 0;
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      unpack(flow[k], flows[k]), unpack(in[k], ins[k]);
      if (!joins) continue;
      float beside[kChunk];
      unpack(beside, besides[k]);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) flow[k][i] = joined<T>(flow[k][i], carried.alpha, beside[i]);
    }
    if (kAhead && row + 1 < last) fetch_row(row + 1);
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int64_t c = begin + k * step;
      float w[kChunk];
      load<kAligned>(w, weight + c, width - c);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) along += flow[k][i] * w[i] * in[k][i];
    }
    const float mean = block_sum(along, places[row % 2]) / float(width);
    const float inverse = inverses[row - first], pull = -mean * inverse * inverse * inverse;
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int64_t c = begin + k * step;
      float w[kChunk];
      load<kAligned>(w, weight + c, width - c);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        sums[k][i] += inverse * (flow[k][i] * in[k][i]);
        w[i] = inverse * (flow[k][i] * w[i]) + pull * in[k][i];
      }
      store<kAligned>(dx[row] + c, w, width - c);
    }
  }
#pragma unroll
  for (int k = 0; k < kChunks; ++k)
    if (const int64_t c = begin + k * step; c < width)
      store<true>(g.partial + block_index() * g.pitch + c, sums[k], kChunk);
}

// How many chunks a thread keeps, and the most threads of a block: decided by the width, which is at most 32,768.
template <class Body>
void with_chunks(int64_t chunks, Body&& body) {
  if (chunks <= kThreads) body.template operator()<1, kThreads>();
  else if (chunks <= 2 * kThreads) body.template operator()<2, kThreads>();
  else if (chunks <= 3 * kThreads) body.template operator()<3, kThreads>();
  else if (chunks <= 4 * kThreads) body.template operator()<4, kThreads>();
  else if (chunks <= 4 * 1024) body.template operator()<4, 1024>();
  else fail(ErrorKind::unsupported, "rms_norm_backward on CUDA: rows wider than 32768 columns");
}

template <class T>
void differentiate(Stream& stream, const RmsNormBackward& op) {
  const int64_t width = op.x.dim(1), chunks = divide_up(width, kChunk);
  const PieceSums sums(stream, op.x.dim(0), width);
  const Gradient g{width, op.inverse_rms.elements<float>(), sums.data(), sums.pitch};
  const Carried<T> carried{op.carried ? rows_of<const T>(op.carried) : Rows<const T>{}, float(op.alpha)};
  with_flag(aligned(op.dx, op.dy, op.x, op.weight) && (!op.carried || aligned(op.carried)), [&]<bool kAligned>() {
    with_chunks(chunks, [&]<int kChunks, int kMost>() {
      const int64_t threads = divide_up(divide_up(chunks, kChunks), 32) * 32;
      launch_blocks(stream, "rms_norm_backward", sums.pieces, dim3(unsigned(threads)),
                    backward<kChunks, kMost, kAligned, T>, rows_of<T>(op.dx), rows_of<const T>(op.dy), carried,
                    rows_of<const T>(op.x), static_cast<const T*>(op.weight.elements<T>()), g);
    });
  });
  sums.add_to(stream, "rms_norm_backward", op.dweight.elements<float>(), width);
}

}  // namespace

void rms_norm(Stream& stream, const RmsNorm& op) {
  float* inverse_rms = op.inverse_rms ? op.inverse_rms.elements<float>() : nullptr;
  with_cuda_type(op.x.dtype, [&]<class T>() {
    with_flag(aligned(op.y, op.x, op.weight), [&]<bool kAligned>() {
      with_flag(op.x.dim(1) <= kWarpWidth, [&]<bool kWarp>() {
        launch_following(stream, "rms_norm", divide_up(op.x.dim(0), Team<kWarp>::kRows), dim3(kThreads),
                         forward<kWarp, kAligned, T>, rows_of<T>(op.y), rows_of<const T>(op.x),
                         static_cast<const T*>(op.weight.elements<T>()), float(op.eps), inverse_rms);
      });
    });
  });
}

void rms_norm_backward(Stream& stream, const RmsNormBackward& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() { differentiate<T>(stream, op); });
}

}  // namespace fulgur::cuda

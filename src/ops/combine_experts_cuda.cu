// y = w0 * x0, then + w1 * x1 and so on, each product rounded first; backward is one scaled row and one dot per choice.
#include "ops/combine_experts.h"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {
namespace {

__device__ float not_a_number() { return __uint_as_float(0x7fffffff); }

constexpr int kSlots = 2, kSide = 2;  // choices, and chunks of each, that a thread fetches before the first is added

template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads)
    forward(Rows<T> y, Rows<const T> x, Rows<const float> weights, Rows<const int32_t> place) {
  follow();
  const int64_t row = row_of_thread(), width = y.width, step = int64_t(blockDim.x) * kChunk;
  if (row >= y.count) return;
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < width; c += kSide * step) {
    float sums[kSide][kChunk] = {};
    bool first = true;
    for (int64_t slot = 0; slot < place.width; slot += kSlots) {
      int64_t from[kSlots];
      float weight[kSlots];
      Chunk<T> chunks[kSlots][kSide];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const bool given = slot + s < place.width;
        from[s] = given ? place[row][slot + s] : -1;
        weight[s] = given ? weights[row][slot + s] : 0;
      }
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const bool inside = from[s] >= 0 && from[s] < x.count;
        if (!inside) weight[s] = not_a_number();
#pragma unroll
        for (int k = 0; k < kSide; ++k) {
          const int64_t at = c + k * step;
          chunks[s][k] = inside ? fetch<kAligned>(x[from[s]] + at, width - at) : filled<T>(0);
        }
      }
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (from[s] == -1) continue;
#pragma unroll
        for (int k = 0; k < kSide; ++k) {
          float v[kChunk];
          unpack(v, chunks[s][k]);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) {
            const float product = weight[s] * v[i];
            sums[k][i] = first ? product : sums[k][i] + product;
          }
        }
        first = false;
      }
    }
#pragma unroll
    for (int k = 0; k < kSide; ++k) store<kAligned>(y[row] + c + k * step, sums[k], width - c - k * step);
  }
}

template <class T>
struct Gradient {
  Rows<T> dx;
  Rows<float> dweights;
  Rows<const T> dy, x;
  Rows<const float> weights;
  Rows<const int32_t> place;
};

constexpr int kFetched = 4;  // chunks of a thread, before the first is used

// A team takes a row and goes through its choices.
template <bool kWarp, bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) backward(Gradient<T> g) {
  using Mine = Team<kWarp>;
  const int64_t row = Mine::row(), width = g.dy.width;
  if (row >= g.dy.count) return;
  int64_t sums = 0;
  for (int64_t slot = 0; slot < g.place.width; ++slot) {
    const int64_t from = g.place[row][slot];
    float sum = from == -1 ? 0 : not_a_number();
    if (from >= 0 && from < g.x.count) {
      const float weight = g.weights[row][slot];
      constexpr int64_t kStep = Mine::kSize * kChunk;
      sum = 0;
      for (int64_t c = Mine::thread() * kChunk; c < width; c += kFetched * kStep) {
        Chunk<T> flows[kFetched], ins[kFetched];
#pragma unroll
        for (int k = 0; k < kFetched; ++k) {
          const int64_t at = c + k * kStep;
          flows[k] = fetch<kAligned>(g.dy[row] + at, width - at), ins[k] = fetch<kAligned>(g.x[from] + at, width - at);
        }
#pragma unroll
        for (int k = 0; k < kFetched; ++k) {
          const int64_t at = c + k * kStep;
          float flow[kChunk], in[kChunk];
          unpack(flow, flows[k]), unpack(in, ins[k]);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) sum += flow[i] * in[i], in[i] = weight * flow[i];
          store<kAligned>(g.dx[from] + at, in, width - at);
        }
      }
      sum = team_sum<kWarp>(sum, sums++);
    }
    if (Mine::thread() == 0) g.dweights[row][slot] = sum;
  }
}

}  // namespace

void combine_experts(Stream& stream, const CombineExperts& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    const RowBlocks blocks(op.y.dim(0), divide_up(op.y.dim(1), kSide * kChunk));
    with_flag(aligned(op.y, op.x), [&]<bool kAligned>() {
      launch_following(stream, "combine_experts", blocks.blocks, blocks.threads, forward<kAligned, T>, rows_of<T>(op.y),
                       rows_of<const T>(op.x), rows_of<const float>(op.weights), rows_of<const int32_t>(op.place));
    });
  });
}

void combine_experts_backward(Stream& stream, const CombineExpertsBackward& op) {
  with_cuda_type(op.x.dtype, [&]<class T>() {
    const Gradient<T> g{.dx = rows_of<T>(op.dx),
                        .dweights = rows_of<float>(op.dweights),
                        .dy = rows_of<const T>(op.dy),
                        .x = rows_of<const T>(op.x),
                        .weights = rows_of<const float>(op.weights),
                        .place = rows_of<const int32_t>(op.place)};
    with_flag(aligned(op.dx, op.dy, op.x), [&]<bool kAligned>() {
      with_flag(op.dy.dim(1) <= kWarpWidth, [&]<bool kWarp>() {
        launch_blocks(stream, "combine_experts_backward", divide_up(op.dy.dim(0), Team<kWarp>::kRows), dim3(kThreads),
                      backward<kWarp, kAligned, T>, g);
      });
    });
  });
}

}  // namespace fulgur::cuda

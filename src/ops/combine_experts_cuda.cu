// One scaled row and one dot per choice.
#include "ops/combine_experts.h"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {
namespace {

__device__ float not_a_number() { return __uint_as_float(0x7fffffff); }

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

// Few rows in one launch, whose time is that of its loads and of one chain of products; else the operators that it
// stands for.
//
// A thread block takes 16 rows: all its threads load stages of 128 steps of them and of the router, a warp multiplies
// them by 8 experts, then chooses for two rows. The blocks are one cluster: they tell the first one their choices,
// which it sorts. Sums take k ascending from zero, as linear's do (ops/cuda/products.cuh).
#include <algorithm>
#include <bit>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/choose_experts.cuh"
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/few_choices.cuh"
#include "ops/cuda/gpu.cuh"
#include "ops/route_rows.h"

namespace fulgur::cuda {
namespace {

constexpr int kWarps = kThreads / 32, kBlockRows = 16, kWarpExperts = 8;
constexpr int kMostRows = 128, kMostChoices = kThreads, kMostExperts = kWarps * kWarpExperts;
constexpr int kSteps = 128, kPitch = kSteps + 8, kStages = 8;

struct Router {
  Rows<const bf16> x, w;
  Rows<float> logits, weights;
  Rows<int32_t> ids;
  FewPlaces places;
};

struct Shared {
  __align__(16) float logits[kBlockRows][kMostExperts];
  float weights[kMostChoices];
  int32_t ids[kMostChoices];  // of all rows; of other blocks' in the first one alone
  FewCounts<kMostChoices, kMostExperts> counts;
};

using StageRow = bf16[kPitch];

// The rows of x, then those of the router.
FULGUR_HOST_DEVICE constexpr int stage_rows(int64_t experts) {
  return kBlockRows + int(divide_up(experts, kWarpExperts)) * kWarpExperts;
}
FULGUR_HOST_DEVICE constexpr int stages_at_once(int64_t width) {
  return width < kStages * kSteps ? int(divide_up(width, kSteps)) : kStages;
}
size_t shared_bytes(int64_t experts, int64_t width) {
  return sizeof(Shared) + size_t(stages_at_once(width) * stage_rows(experts)) * sizeof(StageRow);
}

// Asks for steps [k, k + kSteps) of `count` rows from `first` on; zeros where the matrix has none.
__device__ void ask_rows(StageRow* to, const Rows<const bf16>& matrix, int first, int count, int k) {
  constexpr int kChunks = kSteps / kChunk;
  for (int i = int(threadIdx.x); i < count * kChunks; i += kThreads) {
    const int row = i / kChunks, step = i % kChunks * kChunk;
    const bool there = first + row < matrix.count && k + step < matrix.width;
    copy_async(&to[row][step], there ? matrix[first + row] + k + step : matrix.data, there);
  }
}

// sums += x w of a stage, 16 rows of x by the 8 experts that w begins with.
__device__ void multiply_stage(float (&sums)[4], const StageRow* x, const StageRow* w) {
  const int lane = int(threadIdx.x) % 32;
  uint32_t rows[kSteps / 16][4], columns[kSteps / 32][4];
#pragma unroll
  for (int i = 0; i < kSteps / 32; ++i) load_matrices(columns[i], &w[lane % 8][i * 32 + lane / 8 * 8]);
#pragma unroll
  for (int i = 0; i < kSteps / 16; ++i) load_matrices(rows[i], &x[lane % 16][i * 16 + lane / 16 * 8]);
#pragma unroll
  for (int i = 0; i < kSteps / 16; ++i)
    multiply_add_16(sums, rows[i], columns[i / 2][i % 2 * 2], columns[i / 2][i % 2 * 2 + 1]);
}

// The sums of the block's rows from `first` on and the warp's experts. The router is asked for before the kernels
// before have ended: none of a forward pass writes it (ops/cuda/hopper_few_rows.cuh).
__device__ void multiply_rows(float (&sums)[4], StageRow* stages, const Router& r, int first) {
  const int each = stage_rows(r.w.count), warp_row = kBlockRows + int(threadIdx.x) / 32 * kWarpExperts;
  const int count = first < r.x.count ? int(divide_up(r.x.width, kSteps)) : 0;
  const auto stage = [&](int i) { return stages + i % kStages * each; };
  const auto ask_router = [&](int i) { ask_rows(stage(i) + kBlockRows, r.w, 0, each - kBlockRows, i * kSteps); };
  for (int i = 0; i < kStages && i < count; ++i) ask_router(i);
  await_previous();
  for (int i = 0; i < kStages; ++i) {
    if (i < count) ask_rows(stage(i), r.x, first, kBlockRows, i * kSteps);
    commit_copies();
  }
  for (int i = 0; i < count; ++i) {
    wait_for_copies<kStages - 1>();
    __syncthreads();
    if (warp_row < each) multiply_stage(sums, stage(i), stage(i) + warp_row);
    if (const int next = i + kStages; next < count) {
      __syncthreads();
      ask_router(next), ask_rows(stage(next), r.x, first, kBlockRows, next * kSteps);
    }
    commit_copies();
  }
  wait_for_copies<0>();  // the last groups are empty
}

__device__ void store_logits(Shared& shared, const Router& r, int first, const float (&sums)[4]) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, expert = int(threadIdx.x) / 32 * kWarpExperts + lane % 4 * 2 + i % 2;
    if (expert >= r.w.count || first + row >= r.x.count) continue;
    shared.logits[row][expert] = r.logits[first + row][expert] = sums[i];
  }
}

__global__ void __launch_bounds__(kThreads) route_few_rows(Router r) {
  let_next_begin();
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  const bool shares = gridDim.x > 1;
  if (shares) cluster_arrive();  // the first block's memory is there
  const int first = int(blockIdx.x) * kBlockRows, k = int(r.ids.width), thread = int(threadIdx.x);
  const int rows = first < r.x.count ? min(kBlockRows, int(r.x.count) - first) : 0;

  float sums[4] = {};
  multiply_rows(sums, reinterpret_cast<StageRow*>(&shared + 1), r, first);
  store_logits(shared, r, first, sums);
  __syncthreads();
  for (int row = thread / 32; row < rows; row += kWarps)
    choose_experts(shared.ids + (first + row) * k, shared.weights + row * k, shared.logits[row], r.w.count, k);
  __syncthreads();
  if (shares) cluster_wait();
  if (thread < rows * k) {
    const int32_t id = shared.ids[first * k + thread];
    r.ids[first + thread / k][thread % k] = id;
    r.weights[first + thread / k][thread % k] = shared.weights[thread];
    if (shares && first > 0) store_shared(&shared.ids[first * k + thread], 0, id);
  }
  if (shares) cluster_arrive(), cluster_wait();
  if (first > 0) return;
  place_few_choices(shared.counts, r.places, {shared.ids, r.ids.count, k, k}, int(r.w.count));
}

bool in_one_launch(Stream& stream, const RouteRows& op) {
  const int64_t rows = op.x.dim(0), experts = op.router.out(), choices = op.expert_ids.count();
  if (op.x.dtype != DType::bf16 || op.logits.dtype != DType::f32 || op.probabilities) return false;
  if (rows > kMostRows || choices == 0 || choices > kMostChoices || experts > kMostExperts) return false;
  if (windows_matter(op.grouping()) && op.grouping().rows_per_window() != rows) return false;
  if (!aligned(op.x, op.router.values) || op.router.in() == 0) return false;
  const unsigned blocks = std::bit_ceil(unsigned(divide_up(rows, kBlockRows)));
  const size_t bytes = shared_bytes(experts, op.router.in());
  if ((blocks > 1 && !has_clusters()) || int64_t(bytes) > block_memory()) return false;
  allow_block_memory("route_rows", route_few_rows, bytes);
  launch(stream, "route_rows",
         {.blocks = dim3(blocks), .threads = dim3(kThreads), .shared_bytes = bytes, .cluster = blocks, .follows = true},
         route_few_rows,
         Router{.x = rows_of<const bf16>(op.x),
                .w = rows_of<const bf16>(op.router.values),
                .logits = rows_of<float>(op.logits),
                .weights = rows_of<float>(op.weights),
                .ids = rows_of<int32_t>(op.expert_ids),
                .places = few_places(op.grouping())});
  return true;
}

}  // namespace

void route_rows(Stream& stream, const RouteRows& op) {
  if (in_one_launch(stream, op)) return;
  cuda::linear(stream, op.product());
  cuda::route_experts(stream, op.choice());
  cuda::group_rows(stream, op.grouping());
}

}  // namespace fulgur::cuda

// Few rows in one launch, whose time is that of its loads and of one chain of products; else the operators that it
// stands for.
//
// A thread block takes 16 rows: its warps load stages of 128 steps of them and of the router, a warp multiplies them by
// 8 experts, then chooses for two rows. The blocks are one cluster: they tell the first one their choices, which it
// sorts. Sums take k ascending from zero, as linear's do (ops/cuda/products.cuh).
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
constexpr int kMostRows = 128, kMostChoices = kThreads, kMostExperts = kWarps * kWarpExperts, kMostSlots = 32;
constexpr int kSteps = 128, kPitch = kSteps + 8, kStages = kWarps;

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

// The rows of x, then those of the router. Numbers of rows that are not there change no other row's sums.
FULGUR_HOST_DEVICE constexpr int stage_rows(int64_t experts) {
  return kBlockRows + int(divide_up(experts, kWarpExperts)) * kWarpExperts;
}
FULGUR_HOST_DEVICE constexpr int stages_at_once(int64_t width) {
  return width < kStages * kSteps ? int(divide_up(width, kSteps)) : kStages;
}
size_t shared_bytes(int64_t experts, int64_t width) {
  return sizeof(Shared) + size_t(stages_at_once(width) * stage_rows(experts)) * sizeof(StageRow);
}

// What thread `thread` of `threads` copies of steps [k, k + kSteps) of rows from `first` on; zeros beyond the width.
class RowCopies {
 public:
  __device__ RowCopies(StageRow* to, const Rows<const bf16>& matrix, int first, int k, unsigned thread,
                       unsigned threads)
      : row_(int(thread / kChunks)), each_(int(threads / kChunks)), apart_(each_ * matrix.stride) {
    const int step = int(thread % kChunks) * kChunk;
    from_ = matrix[first + row_] + k + step, to_ = &to[row_][step], there_ = k + step < matrix.width;
    settle(from_), settle(to_);
  }
  __device__ void ask(int count) const {
    const bf16* from = from_;
    bf16* to = to_;
    for (int row = row_; row < count; row += each_, from += apart_, to += each_ * kPitch) copy_async(to, from, there_);
  }

 private:
  static constexpr unsigned kChunks = kSteps / kChunk;
  int row_, each_;
  int64_t apart_;
  const bf16* from_;
  bf16* to_;
  bool there_;
};

// What the products of half a stage take of 16 rows of x and 8 experts.
constexpr int kAhead = kSteps / 2;
struct Fragments {
  uint32_t x[kAhead / 16][4], w[kAhead / 32][4];
  // Both point to where the lane reads the stage.
  __device__ void load(const bf16* x_lane, const bf16* w_lane, int k) {
#pragma unroll
    for (int i = 0; i < kAhead / 32; ++i) load_matrices(w[i], w_lane + k + i * 32);
#pragma unroll
    for (int i = 0; i < kAhead / 16; ++i) load_matrices(x[i], x_lane + k + i * 16);
  }
  __device__ void multiply(float (&sums)[4]) const {
#pragma unroll
    for (int i = 0; i < kAhead / 16; ++i) multiply_add_16(sums, x[i], w[i / 2][i % 2 * 2], w[i / 2][i % 2 * 2 + 1]);
  }
};

// The sums of the block's rows and the warp's experts: a ring of stages, of which most widths need one turn.
class Sums {
 public:
  __device__ Sums(const Router& r, StageRow* stages, int first, int rows)
      : r_(r),
        stages_(stages),
        each_(stage_rows(r.w.count)),
        first_(first),
        rows_(rows),
        count_(rows > 0 ? int(divide_up(r.x.width, kSteps)) : 0),
        warp_row_(kBlockRows + int(threadIdx.x / 32) * kWarpExperts) {}

  // A warp loads one of the first stages. The router is asked for before the kernels before have ended: none of a
  // forward pass writes it (ops/cuda/hopper_few_rows.cuh).
  __device__ void compute(float (&sums)[4]) const {
    const int warp = int(threadIdx.x / 32);
    const RowCopies router = router_copies(warp, threadIdx.x % 32, 32), x = x_copies(warp, threadIdx.x % 32, 32);
    router.ask(warp < count_ ? int(r_.w.count) : 0);
    await_previous();
    x.ask(warp < count_ ? rows_ : 0);
    wait_for_copies();
    __syncthreads();
    multiply(sums);
    wait_for_copies();  // the last groups are empty
  }

 private:
  __device__ StageRow* stage(int i) const { return stages_ + i % kStages * each_; }
  __device__ RowCopies router_copies(int i, unsigned thread, unsigned threads) const {
    return {stage(i) + kBlockRows, r_.w, 0, i * kSteps, thread, threads};
  }
  __device__ RowCopies x_copies(int i, unsigned thread, unsigned threads) const {
    return {stage(i), r_.x, first_, i * kSteps, thread, threads};
  }

  // Before stage i is multiplied: the next one is there, and the one before it makes room for another.
  __device__ void turn_ring(int i) const {
    wait_for_copies<kStages - 3>();
    __syncthreads();
    if (i == 0) return;
    if (const int next = i - 1 + kStages; next < count_)
      router_copies(next, threadIdx.x, kThreads).ask(int(r_.w.count)), x_copies(next, threadIdx.x, kThreads).ask(rows_);
    commit_copies();
  }

  // Fragments are loaded ahead of their products, the first of a stage by the stage before it.
  __device__ void multiply(float (&sums)[4]) const {
    const bool multiplies = count_ > 0 && warp_row_ < each_;
    const unsigned lane = threadIdx.x % 32;
    const bf16* x = &stages_[lane % 16][lane / 16 * 8];
    const bf16* w = &stages_[warp_row_ + int(lane % 8)][lane / 8 * 8];
    Fragments now, ahead;
    if (multiplies) now.load(x, w, 0);
    for (int i = 0; i < count_; ++i) {
      if (count_ > kStages) turn_ring(i);
      if (!multiplies) continue;
      ahead.load(x, w, kAhead);
      now.multiply(sums);
      if (i + 1 < count_) {
        const int further = ((i + 1) % kStages - i % kStages) * each_ * kPitch;
        x += further, w += further;
      }
      now.load(x, w, 0);  // once too often
      ahead.multiply(sums);
    }
  }

  const Router& r_;
  StageRow* const stages_;
  const int each_, first_, rows_, count_, warp_row_;
};

// Rows and experts that are not there have a place, too.
__device__ void share_sums(Shared& shared, const float (&sums)[4]) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i)
    shared.logits[lane / 4 + i / 2 * 8][threadIdx.x / 32 * kWarpExperts + lane % 4 * 2 + i % 2] = sums[i];
}

// A warp a row, a lane a slot.
__device__ void choose_for_rows(Shared& shared, const Router& r, int first, int rows) {
  const int k = int(r.ids.width), lane = int(threadIdx.x % 32);
  for (int row = int(threadIdx.x / 32); row < rows; row += kWarps) {
    const float* const logits = shared.logits[row];
    int32_t id = 0;
    float power = 0;
    const ChosenSoftmax softmax =
        choose_experts(FewExpertsInOrder(logits, int(r.w.count)), logits, k, [&](int slot, int32_t expert, float p) {
          if (slot == lane) id = expert, power = p;
        });
    if (lane < k) shared.ids[(first + row) * k + lane] = id, shared.weights[row * k + lane] = power / softmax.sum;
  }
}

// For the caller. The last threads begin, since the first have most to do.
__device__ void store_choices(const Shared& shared, const Router& r, int first, int rows) {
  const int k = int(r.ids.width), thread = kThreads - 1 - int(threadIdx.x), lane = int(threadIdx.x % 32);
  if (thread < rows * k) {
    const int row = first + thread / k, slot = thread % k;
    r.ids[row][slot] = shared.ids[first * k + thread], r.weights[row][slot] = shared.weights[thread];
  }
  for (int row = thread / 32; row < rows; row += kWarps)
    for (int e = lane; e < r.w.count; e += 32) r.logits[first + row][e] = shared.logits[row][e];
}

__global__ void __launch_bounds__(kThreads) route_few_rows(Router r) {
  let_next_begin();
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  const bool shares = gridDim.x > 1;
  if (shares) cluster_arrive();  // the first block's memory is there
  const int thread = int(threadIdx.x), k = int(r.ids.width), choices = int(r.ids.count) * k;
  const int first = int(blockIdx.x) * kBlockRows;
  const int rows = first < r.x.count ? min(kBlockRows, int(r.x.count) - first) : 0;
  FewChoice choice{.expert = -1, .row = thread / k, .slot = thread % k};

  float sums[4] = {};
  Sums(r, reinterpret_cast<StageRow*>(&shared + 1), first, rows).compute(sums);
  share_sums(shared, sums);
  if (shares) cluster_wait();
  __syncthreads();
  choose_for_rows(shared, r, first, rows);
  __syncthreads();
  if (first > 0 && thread < rows * k) store_shared(&shared.ids[first * k + thread], 0, shared.ids[first * k + thread]);
  if (shares) cluster_arrive();
  store_choices(shared, r, first, rows);
  if (shares) cluster_wait();
  if (first > 0) return;
  if (thread < choices) choice.expert = shared.ids[thread];
  if (choices > 32) place_few_choices(shared.counts, r.places, choice, choices, int(r.w.count));
  else if (thread < 32) place_choices_of_warp<kMostExperts>(r.places, choice, choices, int(r.w.count));
}

bool in_one_launch(Stream& stream, const RouteRows& op) {
  const int64_t rows = op.x.dim(0), experts = op.router.out(), choices = op.expert_ids.count();
  if (op.x.dtype != DType::bf16 || op.logits.dtype != DType::f32 || op.probabilities) return false;
  if (rows > kMostRows || choices == 0 || choices > kMostChoices || experts > kMostExperts) return false;
  if (op.expert_ids.dim(1) > kMostSlots) return false;
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

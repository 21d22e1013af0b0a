// A row that the thread blocks of a cluster share, each warp a stretch of it, or one block alone: what its warps tell
// each other. Nothing depends on how many blocks there are: sums are of whole numbers, exact in any order, and what
// else is joined depends on the number of warps alone.
#pragma once
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

inline constexpr int kMostRowBlocks = 8;
inline constexpr int kSums = 8;  // that RowCluster::sums takes

template <int kWarps>
class RowCluster {
 public:
  // In dynamic shared memory. Two sets, taken by turns: whoever writes one again has passed a barrier that all reach
  // after they have read it.
  struct Places {
    uint64_t of_warps[2][kMostRowBlocks * kWarps];
    uint64_t of_blocks[2][kSums * kMostRowBlocks];
    uint64_t here[kSums * kWarps];
  };

  // Grids have `blocks` blocks for each row, side by side.
  __device__ RowCluster(Places& places, int blocks)
      : places_(places), blocks_(blocks), rank_(int(block_index() % blocks)) {
    if (blocks > 1) cluster_arrive();
  }

  __device__ int rank() const { return rank_; }
  __device__ int warp() const { return rank_ * kWarps + int(threadIdx.x / 32); }  // of the row's
  __device__ int warps() const { return blocks_ * kWarps; }

  // Before what follows is called: the other blocks' memory is there.
  __device__ void begin() const {
    if (blocks_ > 1) cluster_wait();
  }

  // A number of each warp's, in their order, for all.
  __device__ const uint64_t* gather(uint64_t number) {
    uint64_t* const numbers = places_.of_warps[turn_++ % 2];
    if (const int lane = int(threadIdx.x % 32); lane < blocks_) tell(&numbers[warp()], lane, number);
    barrier();
    return numbers;
  }

  // What `join` makes of the values of all threads and `none`, in all of them.
  template <class Join>
  __device__ uint64_t joined(uint64_t value, uint64_t none, const Join& join) {
    const auto of_lanes = [&] {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(kAllLanes, value, step));
    };
    of_lanes();
    if (kWarps == 1) return value;  // then the row has one block
    const uint64_t* const numbers = gather(value);
    value = none;
    for (int at = int(threadIdx.x % 32); at < warps(); at += 32) value = join(value, numbers[at]);
    of_lanes();
    return value;
  }
  __device__ uint64_t sum(uint64_t value) {
    return joined(value, 0, [](uint64_t a, uint64_t b) { return a + b; });
  }
  __device__ uint64_t least(uint64_t value) {
    return joined(value, ~uint64_t(0), [](uint64_t a, uint64_t b) { return a < b ? a : b; });
  }
  __device__ uint64_t greatest(uint64_t value) {
    return joined(value, 0, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  }

  // Of eight numbers of each thread's: lane l has the sum of number l / 4.
  __device__ uint64_t sums(uint64_t (&numbers)[kSums]) {
    const int lane = int(threadIdx.x % 32), which = lane / 4, part = lane % 4;
    uint64_t sum = of_warp(numbers);
    if (kWarps == 1) return sum;
    if (part == 0) places_.here[which * kWarps + threadIdx.x / 32] = sum;
    __syncthreads();
    uint64_t* const of_blocks = places_.of_blocks[turn_++ % 2];
    if (threadIdx.x < 32) {
      sum = of_four(places_.here + which * kWarps, kWarps);
      for (int rank = part; rank < blocks_; rank += 4) tell(&of_blocks[which * kMostRowBlocks + rank_], rank, sum);
    }
    barrier();
    return of_four(of_blocks + which * kMostRowBlocks, blocks_);
  }

 private:
  __device__ void tell(uint64_t* at, int rank, uint64_t number) const {
    if (blocks_ > 1) store_shared(at, uint32_t(rank), number);
    else *at = number;
  }
  __device__ void barrier() const {
    if (blocks_ > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
  }

  // Each halving leaves a lane the sums, over twice the lanes, of half the numbers.
  __device__ static uint64_t of_warp(uint64_t (&numbers)[kSums]) {
#pragma unroll
    for (int half = kSums / 2, step = 16; half > 0; half /= 2, step /= 2)
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const bool upper = (threadIdx.x & unsigned(step)) != 0;
        const uint64_t kept = upper ? numbers[i + half] : numbers[i], given = upper ? numbers[i] : numbers[i + half];
        numbers[i] = kept + __shfl_xor_sync(kAllLanes, given, step);
      }
    return of_four_lanes(numbers[0]);
  }
  // The sum of `count` numbers by four lanes side by side.
  __device__ static uint64_t of_four(const uint64_t* numbers, int count) {
    uint64_t sum = 0;
    for (int i = int(threadIdx.x % 4); i < count; i += 4) sum += numbers[i];
    return of_four_lanes(sum);
  }
  __device__ static uint64_t of_four_lanes(uint64_t sum) {
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    return sum + __shfl_xor_sync(kAllLanes, sum, 1);
  }

  Places& places_;
  int blocks_, rank_, turn_ = 0;
};

}  // namespace fulgur::cuda

// The stable sort of few choices by expert, by one thread block: what group_rows does of them, and what follows a
// router in its own launch.
#pragma once
#include "ops/cuda/rows.cuh"
#include "ops/group_rows.h"

namespace fulgur::cuda {

inline constexpr int64_t kNoCapacity = INT32_MAX;  // where nothing is dropped
inline int64_t capacity_of(const GroupRows& op) {
  return op.capacity > 0 && op.capacity < kNoCapacity ? op.capacity : kNoCapacity;
}
// Where nothing is dropped or counted for others, windows change no result.
inline bool windows_matter(const GroupRows& op) { return op.capacity > 0 || op.choices; }

// begin[e + 1], how many choices an expert keeps, becomes where they end; begin[0] zero. One warp.
__device__ inline void add_up(int32_t* begin, int experts) {
  int32_t before = 0;
  if (threadIdx.x == 0) begin[0] = 0;
  for (int first = 0; first < experts; first += 32) {
    const int lane = int(threadIdx.x), e = first + lane;
    int32_t upto = e < experts ? begin[e + 1] : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
      if (const int32_t below = __shfl_up_sync(kAllLanes, upto, step); lane >= step) upto += below;
    if (e < experts) begin[e + 1] = before + upto;
    before += __shfl_sync(kAllLanes, upto, 31);
  }
}

struct FewPlaces {
  int32_t *sorted_rows, *expert_begin, *counts;  // counts: [experts], or null
  Rows<int32_t> place;
  int32_t capacity;
};
inline FewPlaces few_places(const GroupRows& op) {
  return {.sorted_rows = op.sorted_rows.elements<int32_t>(),
          .expert_begin = op.expert_begin.elements<int32_t>(),
          .counts = op.choices ? op.choices.elements<int32_t>() : nullptr,
          .place = rows_of<int32_t>(op.place),
          .capacity = int32_t(capacity_of(op))};
}

// Shared memory for up to so many choices and experts.
template <int kChoices, int kExperts>
struct FewCounts {
  int32_t found[kChoices / 32][kExperts], begin[kExperts + 1];
};

// A thread a choice, one window: those of its expert that a warp's lanes, then its warps, have before it. A choice that
// is no expert's gets a place outside.
template <int kChoices, int kExperts>
__device__ void place_few_choices(FewCounts<kChoices, kExperts>& shared, const FewPlaces& p, Rows<const int32_t> ids,
                                  int experts) {
  auto& [found, begin] = shared;
  const int warps = int(blockDim.x) / 32, thread = int(threadIdx.x), width = int(ids.width);
  const int choices = int(ids.count) * width, row = thread / width, slot = thread % width;
  for (int i = thread; i < warps * experts; i += int(blockDim.x)) found[i / experts][i % experts] = 0;
  __syncthreads();

  const int32_t expert = thread < choices ? ids[row][slot] : -1;
  const bool given = expert >= 0 && expert < experts;
  int32_t before = 0, all = 0;  // of this warp
#pragma unroll 8
  for (int lane = 0; lane < 32; ++lane) {
    const bool same = __shfl_sync(kAllLanes, expert, lane) == expert;
    all += same, before += same && lane < thread % 32;
  }
  if (given && before == 0) found[thread / 32][expert] = all;
  __syncthreads();

  for (int e = thread; e < experts; e += int(blockDim.x)) {
    int32_t sum = 0;
    for (int w = 0; w < warps; ++w) {
      const int32_t here = found[w][e];
      found[w][e] = sum, sum += here;
    }
    if (p.counts) p.counts[e] = sum;
    begin[e + 1] = sum < p.capacity ? sum : p.capacity;
  }
  __syncthreads();
  if (thread < 32) add_up(begin, experts);
  __syncthreads();

  for (int e = thread; e <= experts; e += int(blockDim.x)) p.expert_begin[e] = begin[e];
  if (thread >= choices) return;
  const int32_t rank = given ? found[thread / 32][expert] + before : 0;
  const bool kept = given && rank < p.capacity;
  p.place[row][slot] = kept ? begin[expert] + rank : given ? -1 : INT32_MIN;
  if (kept) p.sorted_rows[begin[expert] + rank] = row;
  if (thread >= begin[experts]) p.sorted_rows[thread] = -1;
}

}  // namespace fulgur::cuda

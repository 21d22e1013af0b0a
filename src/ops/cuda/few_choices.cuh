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

// A warp's choices, one a lane: of their experts' numbers one word a bit, in which lane l's is bit l.
template <int kBits>
struct WarpChoices {
  uint32_t given, bits[kBits];  // given: those that are an expert's

  __device__ WarpChoices(int32_t expert, bool is_given) : given(__ballot_sync(kAllLanes, is_given)) {
#pragma unroll
    for (int i = 0; i < kBits; ++i) bits[i] = __ballot_sync(kAllLanes, expert >> i & 1);
  }

  struct Compared {
    uint32_t same, lower;
  };
  // Which of them are this expert's, and which are those of experts before it.
  __device__ Compared compare(int32_t expert) const {
    Compared to{given, 0};
#pragma unroll
    for (int i = kBits - 1; i >= 0; --i) {
      const bool bit = expert >> i & 1;
      to.lower |= bit ? to.same & ~bits[i] : 0;
      to.same &= bit ? bits[i] : ~bits[i];
    }
    return to;
  }
};

__device__ inline uint32_t lanes_before() { return (1u << threadIdx.x % 32) - 1; }
FULGUR_HOST_DEVICE constexpr int bits_of(int number) { return number > 0 ? 1 + bits_of(number / 2) : 0; }

// The choice of a thread, all of which are numbered as the threads are.
struct FewChoice {
  int32_t expert;
  int row, slot;
};

// Up to 32 choices by one warp, one window. A choice that is no expert's gets a place outside.
template <int kExperts>
__device__ void place_choices_of_warp(const FewPlaces& p, const FewChoice& choice, int choices, int experts) {
  const int lane = int(threadIdx.x % 32);
  const bool there = lane < choices, given = there && choice.expert >= 0 && choice.expert < experts;
  const WarpChoices<bits_of(kExperts)> all(choice.expert, given);
  const auto [same, lower] = all.compare(choice.expert);
  const int32_t rank = __popc(same & lanes_before());
  const bool keeps = given && rank < p.capacity;
  const uint32_t kept = __ballot_sync(kAllLanes, keeps);
  const int32_t place = __popc(lower & kept) + rank;
  if (there) p.place[choice.row][choice.slot] = keeps ? place : given ? -1 : INT32_MIN;
  if (keeps) p.sorted_rows[place] = choice.row;
  if (there && lane >= __popc(kept)) p.sorted_rows[lane] = -1;
  for (int e = lane; e <= experts; e += 32) {
    const auto of_expert = all.compare(e);
    p.expert_begin[e] = __popc(of_expert.lower & kept);
    if (p.counts && e < experts) p.counts[e] = __popc(of_expert.same);
  }
}

// Shared memory for up to so many choices and experts.
template <int kChoices, int kExperts>
struct FewCounts {
  int32_t found[kChoices / 32][kExperts], begin[kExperts + 1];
};

// The same of more, by a thread block: those of a choice's expert that a warp's lanes, then its warps, have before it.
template <int kChoices, int kExperts>
__device__ void place_few_choices(FewCounts<kChoices, kExperts>& shared, const FewPlaces& p, const FewChoice& choice,
                                  int choices, int experts) {
  auto& [found, begin] = shared;
  const int warps = int(blockDim.x / 32), thread = int(threadIdx.x), warp = int(threadIdx.x / 32);
  const auto [expert, row, slot] = choice;
  for (int e = thread % 32; e < experts; e += 32) found[warp][e] = 0;
  __syncwarp();

  const bool given = thread < choices && expert >= 0 && expert < experts;
  const uint32_t same = WarpChoices<bits_of(kExperts)>(expert, given).compare(expert).same;
  const int32_t before = __popc(same & lanes_before());
  if (given && before == 0) found[warp][expert] = __popc(same);
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
  const int32_t rank = given ? found[warp][expert] + before : 0;
  const bool kept = given && rank < p.capacity;
  p.place[row][slot] = kept ? begin[expert] + rank : given ? -1 : INT32_MIN;
  if (kept) p.sorted_rows[begin[expert] + rank] = row;
  if (thread >= begin[experts]) p.sorted_rows[thread] = -1;
}

}  // namespace fulgur::cuda

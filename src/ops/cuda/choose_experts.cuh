// A row's choice of experts by a warp: its lanes look for the next of the logits in the order greatest first, lowest
// index among equals, where NaN counts as -infinity. Files that take it are compiled without contraction
// (CMakeLists.txt), so that all choose with the same bits.
#pragma once
#include <cmath>

#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

// Greater logits have greater ranks, equal ones the same; all are above 0 and below UINT32_MAX.
__device__ inline uint32_t rank_of(float logit) {
  const uint32_t bits = __float_as_uint(logit == logit ? logit + 0.0f : -INFINITY);  // -0 + 0 is 0
  return bits >> 31 ? ~bits : bits | 0x80000000;
}

struct Candidate {
  uint32_t rank;
  int32_t expert;  // INT32_MAX: none
};
inline constexpr Candidate kBeforeAll{UINT32_MAX, -1};

// The first of the lanes' candidates, in all lanes.
__device__ inline Candidate first_of(const Candidate& mine) {
  const uint32_t greatest = __reduce_max_sync(kAllLanes, mine.rank);
  return {greatest, __reduce_min_sync(kAllLanes, mine.rank == greatest ? mine.expert : INT32_MAX)};
}

// A row's experts one after another, in all lanes.
class ExpertsInOrder {
 public:
  __device__ ExpertsInOrder(const float* logits, int64_t experts) : logits_(logits), experts_(experts) {}
  __device__ int32_t next() {
    Candidate best{0, INT32_MAX};
    for (int32_t e = int32_t(threadIdx.x % 32); e < experts_; e += 32) {
      const uint32_t rank = rank_of(logits_[e]);
      const bool after = rank != last_.rank ? rank < last_.rank : e > last_.expert;
      if (after && rank > best.rank) best = {rank, e};
    }
    last_ = first_of(best);
    return last_.expert;
  }

 private:
  const float* logits_;
  int64_t experts_;
  Candidate last_ = kBeforeAll;
};

// The same of at most 64, whose logits are read once.
class FewExpertsInOrder {
 public:
  __device__ FewExpertsInOrder(const float* logits, int experts) : lane_(int(threadIdx.x % 32)) {
    low_ = lane_ < experts ? rank_of(logits[lane_]) : 0;
    high_ = lane_ + 32 < experts ? rank_of(logits[lane_ + 32]) : 0;
  }
  __device__ int32_t next() {
    const int32_t first = first_of(low_ >= high_ ? Candidate{low_, lane_} : Candidate{high_, lane_ + 32}).expert;
    if (first == lane_) low_ = 0;
    if (first == lane_ + 32) high_ = 0;
    return first;
  }

 private:
  int lane_;
  uint32_t low_, high_;  // ranks; 0: none, or chosen
};

struct ChosenSoftmax {
  float greatest, sum;  // of the logits; of the powers
};

// The k greatest logits, of which `experts` knows the order: calls each(slot, expert, power) in all lanes, slots
// ascending. A weight is its power / sum.
template <class Experts, class Each>
__device__ inline ChosenSoftmax choose_experts(Experts experts, const float* logits, int k, const Each& each) {
  ChosenSoftmax softmax{0, 0};
#pragma unroll 1
  for (int slot = 0; slot < k; ++slot) {
    const int32_t expert = experts.next();
    const float logit = logits[expert];
    if (slot == 0) softmax.greatest = logit;
    const float power = expf(logit - softmax.greatest);
    softmax.sum += power;
    each(slot, expert, power);
  }
  return softmax;
}

}  // namespace fulgur::cuda

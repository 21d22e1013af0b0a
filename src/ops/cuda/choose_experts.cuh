// A row's choice of experts by a warp: its lanes look for the next of the logits in the order greatest first, lowest
// index among equals, where NaN counts as -infinity. Files that take it are compiled without contraction
// (CMakeLists.txt), so that all choose with the same bits.
#pragma once
#include <cmath>

#include "ops/cuda/rows.cuh"

namespace fulgur::cuda {

struct Candidate {
  float logit;
  int32_t expert;  // INT32_MAX: none
  __device__ bool before(const Candidate& other) const {
    return logit != other.logit ? logit > other.logit : expert < other.expert;
  }
};

// The first candidate after `last`, in all lanes.
__device__ inline Candidate next_of(const float* logits, int64_t experts, const Candidate& last) {
  Candidate best{-INFINITY, INT32_MAX};
  for (int64_t e = threadIdx.x % 32; e < experts; e += 32) {
    const Candidate one{logits[e] == logits[e] ? logits[e] : -INFINITY, int32_t(e)};
    if (last.before(one) && one.before(best)) best = one;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Candidate other{__shfl_xor_sync(kAllLanes, best.logit, step), __shfl_xor_sync(kAllLanes, best.expert, step)};
    if (other.before(best)) best = other;
  }
  return best;
}

// The k greatest logits and the softmax over them, written by the warp's first lane. Returns the greatest.
__device__ inline float choose_experts(int32_t* ids, float* weights, const float* logits, int64_t experts, int64_t k) {
  const bool writes = threadIdx.x % 32 == 0;
  Candidate last{INFINITY, -1};
  float greatest = 0, sum = 0;
  for (int64_t slot = 0; slot < k; ++slot) {
    last = next_of(logits, experts, last);
    const float logit = logits[last.expert];
    if (slot == 0) greatest = logit;
    const float power = expf(logit - greatest);
    sum += power;
    if (writes) ids[slot] = last.expert, weights[slot] = power;
  }
  if (writes)
    for (int64_t slot = 0; slot < k; ++slot) weights[slot] /= sum;
  return greatest;
}

}  // namespace fulgur::cuda

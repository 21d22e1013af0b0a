// A row of logits in a row cluster, and searches for the first token, in some order, up to which the tokens' weights
// reach a sum. By places: by eighths over those that are left. By ids: the warps' sums tell in whose stretch it is.
#pragma once
#include "ops/cuda/row_cluster.cuh"

namespace fulgur::cuda {

inline constexpr uint64_t kNowhere = ~uint64_t(0);  // in place of a place, or of an id

// Greater logits first, the lower id among equals: ascending numbers.
__device__ inline uint32_t rank_place(float logit) {
  const uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);
  return bits >> 31 ? bits : ~bits & 0x7fffffff;
}

// Tokens up to this one, in an order of places and then ids.
struct Limit {
  uint64_t place = kNowhere, id = kNowhere;
  __device__ bool holds(uint64_t other, uint64_t other_id) const {
    return other < place || (other == place && other_id <= id);
  }
};

template <int kWarps>
class TokenSearch {
 public:
  // Of `vocab` tokens. `kept` has room for the block's share of them, which divides by the number of its warps.
  __device__ TokenSearch(RowCluster<kWarps>& cluster, float* kept, int64_t vocab, int share)
      : cluster_(cluster),
        kept_(kept),
        first_(int64_t(cluster.rank()) * share),
        share_(first_ < vocab ? int(min(int64_t(share), vocab - first_)) : 0),
        begin_(int(threadIdx.x / 32) * (share / kWarps)),
        end_(min(begin_ + share / kWarps, share_)) {}

  __device__ RowCluster<kWarps>& cluster() const { return cluster_; }
  __device__ float logit(int at) const { return kept_[at]; }
  __device__ uint64_t id(int at) const { return uint64_t(first_ + at); }

  // visit(at) for each token of the thread's.
  template <class Visit>
  __device__ void for_tokens(const Visit& visit) const {
#pragma unroll 2
    for (int at = begin_ + int(threadIdx.x % 32); at < end_; at += 32) visit(at);
  }

  // Reads the row, of which suppressed tokens become NaN.
  __device__ void read(const float* logits, const int32_t* suppressed, int64_t suppressed_count) const {
    constexpr int kAhead = 8;
    for (int at = begin_ + int(threadIdx.x % 32); at < end_; at += 32 * kAhead) {
      float some[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (at + 32 * i < end_) some[i] = logits[first_ + at + 32 * i];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (at + 32 * i < end_) kept_[at + 32 * i] = some[i];
    }
    if (suppressed_count == 0) return;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < suppressed_count; i += kWarps * 32)
      if (const int64_t at = suppressed[i] - first_; at >= 0 && at < share_) kept_[at] = NAN;
    __syncthreads();
  }

  // The id with which the weights, by ids, reach target_of(their sum), in one warp; kNowhere in the others.
  template <class WeightOf, class TargetOf>
  __device__ uint64_t find_by_id(const WeightOf& weight_of, const TargetOf& target_of) const {
    uint64_t sum = 0;
    for_tokens([&](int at) { sum += weight_of(at); });
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    const uint64_t* const sums = cluster_.gather(sum);
    const int lane = int(threadIdx.x % 32), warps = cluster_.warps();
    uint64_t whole = 0;
    for (int warp = lane; warp < warps; warp += 32) whole += sums[warp];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) whole += __shfl_xor_sync(kAllLanes, whole, step);
    uint64_t left = target_of(whole);  // to be reached
    int holder = -1;
    for (int first = 0; first < warps && holder < 0; first += 32)
      if (const int at = reach(first + lane < warps ? sums[first + lane] : 0, left); at < 32) holder = first + at;
    if (holder != cluster_.warp()) return kNowhere;
    for (int first = begin_; first < end_; first += 32)
      if (const int at = reach(first + lane < end_ ? weight_of(first + lane) : 0, left); at < 32) return id(first + at);
    return kNowhere;
  }

  // The token with which the weights, in the order of places and then ids, reach `target`; places end at `last`.
  template <class PlaceOf, class WeightOf>
  __device__ Limit find(uint64_t last, uint64_t target, const PlaceOf& place_of, const WeightOf& weight_of) const {
    const uint64_t place = find_place(last, target, place_of, weight_of);  // from which on `target` is left
    const auto among_equals = [&](int at) { return place_of(at) == place ? weight_of(at) : 0; };
    return {place, cluster_.least(find_by_id(among_equals, [&](uint64_t) { return target; }))};
  }

 private:
  template <class PlaceOf, class WeightOf>
  __device__ uint64_t find_place(uint64_t last, uint64_t& target, const PlaceOf& place_of,
                                 const WeightOf& weight_of) const {
    uint64_t low = 0, high = last;
    while (low < high) {
      const uint64_t width = (high - low) / kSums, rest = (high - low) % kSums;
      const auto upto = [&](int s) { return low + width * uint64_t(s + 1) + (uint64_t(s) < rest ? s : rest); };
      uint64_t sums[kSums] = {};
      for_tokens([&](int at) {
        const uint64_t place = place_of(at);
        if (place < low || place > high) return;
        const uint64_t weight = weight_of(at);
#pragma unroll
        for (int s = 0; s < kSums - 1; ++s)
          if (place <= upto(s)) sums[s] += weight;
      });
      const uint64_t sum = cluster_.sums(sums);
      const int lane = int(threadIdx.x % 32);
      const int found = __ffs(int(__ballot_sync(kAllLanes, lane / 4 == kSums - 1 || sum >= target))) - 1;
      const uint64_t before = __shfl_sync(kAllLanes, sum, found < 4 ? 0 : found - 4);
      const int section = found / 4;
      high = section == kSums - 1 ? high : upto(section);
      if (section > 0) low = upto(section - 1) + 1, target -= before;
    }
    return low;
  }

  // The first lane with whose weight those up to it reach what is left, from which those before it are taken; 32: none.
  __device__ static int reach(uint64_t weight, uint64_t& left) {
    uint64_t upto = weight;
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
      if (const uint64_t below = __shfl_up_sync(kAllLanes, upto, step); int(threadIdx.x % 32) >= step) upto += below;
    const uint32_t lanes = __ballot_sync(kAllLanes, upto >= left);
    const int at = lanes ? __ffs(int(lanes)) - 1 : 32;
    left -= at == 0 ? 0 : __shfl_sync(kAllLanes, upto, at - 1);
    return at;
  }

  RowCluster<kWarps>& cluster_;
  float* kept_;
  int64_t first_;  // id of the block's first token
  int share_, begin_, end_;
};

}  // namespace fulgur::cuda

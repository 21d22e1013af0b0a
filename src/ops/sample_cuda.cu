// A block a row. Chances are whole numbers of 2^-44 of the greatest one, so their sums are exact in any order; every
// cut of the row (top-k, typical-p, top-p) and the draw after it ask for the first token, in some order, with which a
// sum is reached, and a search by eighths over the tokens' places in that order finds it without sorting. Where nothing
// is cut the order is that of ids, and the sums of stretches of ids tell where it is.
#include "base/random.h"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/sample.h"

namespace fulgur::cuda {
namespace {

constexpr int kSections = 8;
constexpr double kOne = 0x1p44;                 // the greatest chance
constexpr uint64_t kImpossible = ~uint64_t(0);  // in place of a chance: suppressed, -infinity or NaN
constexpr uint64_t kNowhere = ~uint64_t(0);     // in place of a place

struct Rules {
  const float *temperature, *typical_p, *top_p, *min_p;
  const int32_t* top_k;
  Rows<const int64_t> keys;
  const int32_t* suppressed;
  int64_t suppressed_count;
};

// What `join` makes of the values of a block of kBlock threads, in all of them.
template <int kBlock, class T, class Join>
__device__ T joined(T value, const Join& join) {
  __shared__ T warps[kBlock / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(kAllLanes, value, step));
  __syncthreads();  // of an earlier call
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = warps[0];
  for (int warp = 1; warp < kBlock / 32; ++warp) value = join(value, warps[warp]);
  return value;
}

// The sums over a block of each thread's numbers, in all threads.
template <int kBlock, int kNumbers>
__device__ void add_up(uint64_t (&numbers)[kNumbers]) {
  __shared__ uint64_t all[kNumbers][kBlock], parts[kNumbers][32];
#pragma unroll
  for (int s = 0; s < kNumbers; ++s) all[s][threadIdx.x] = numbers[s];
  __syncthreads();
  for (int at = int(threadIdx.x); at < kNumbers * 32; at += kBlock) {
    uint64_t sum = 0;
    for (int part = at % 32; part < kBlock; part += 32) sum += all[at / 32][part];
    parts[at / 32][at % 32] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int s = 0; s < kNumbers; ++s) {
    numbers[s] = 0;
    for (const uint64_t part : parts[s]) numbers[s] += part;
  }
}

// Greater logits first, the lower id among equals: ascending numbers.
__device__ uint32_t rank_place(float logit) {
  const uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);
  return bits >> 31 ? bits : ~bits & 0x7fffffff;
}

// The first place in [0, last] up to which the tokens' weights reach `target`; `before`: what they weigh before it.
// visit(id, place) gives a token's weight, 0 where it does not count, and its place.
template <int kBlock, class Visit>
__device__ uint64_t find_place(int64_t vocab, uint64_t last, uint64_t target, uint64_t& before, const Visit& visit) {
  uint64_t low = 0, high = last;
  before = 0;
  while (low < high) {
    uint64_t upto[kSections - 1], sums[kSections - 1] = {};
    const uint64_t width = (high - low) / kSections, rest = (high - low) % kSections;
#pragma unroll
    for (int s = 0; s < kSections - 1; ++s) upto[s] = low + width * uint64_t(s + 1) + (uint64_t(s) < rest ? s : rest);
    for (int64_t id = threadIdx.x; id < vocab; id += kBlock) {
      uint64_t place = 0;
      const uint64_t weight = visit(id, place);
      if (weight == 0 || place < low) continue;
#pragma unroll
      for (int s = 0; s < kSections - 1; ++s)
        if (place <= upto[s]) sums[s] += weight;
    }
    add_up<kBlock>(sums);
    uint64_t below = 0;
    for (int s = 0; s < kSections - 1 && upto[s] < high; ++s) {
      if (before + sums[s] >= target) high = upto[s];
      else low = upto[s] + 1, below = sums[s];
    }
    before += below;
  }
  return low;
}

// Tokens up to this one, in an order of places and then ids.
struct Limit {
  uint64_t place = kNowhere;
  int64_t id = INT64_MAX;
  __device__ bool holds(uint64_t other, int64_t other_id) const {
    return other < place || (other == place && other_id <= id);
  }
};

// The token with which the weights, in the order of places and then ids, reach `target`.
template <int kBlock, class Visit>
__device__ Limit find(int64_t vocab, uint64_t last, uint64_t target, const Visit& visit) {
  uint64_t before = 0, unused = 0;
  const uint64_t found = find_place<kBlock>(vocab, last, target, before, visit);
  const auto among_equals = [&](int64_t id, uint64_t& place) {
    uint64_t of_token = 0;
    const uint64_t weight = visit(id, of_token);
    place = uint64_t(id);
    return of_token == found ? weight : 0;
  };
  return {found, int64_t(find_place<kBlock>(vocab, uint64_t(vocab - 1), target - before, unused, among_equals))};
}

// The smallest whole weight that is `share` of `whole`, at least 1.
__device__ uint64_t part_of(double share, uint64_t whole) {
  const double part = ceil(share * double(whole));
  return part < 1 ? 1 : part < double(whole) ? uint64_t(part) : whole;
}

// Fills in chances; returns the token of the greatest logit, the lowest id among equals, or -1.
template <int kBlock>
__device__ int64_t weigh(uint64_t* chances, const float* logits, int64_t vocab, double temperature,
                         const Rules& rules) {
  uint64_t first = kNowhere;  // place and id
  const auto see = [&](int64_t id) {
    if (const uint64_t at = uint64_t(rank_place(logits[id])) << 32 | uint64_t(id); at < first) first = at;
  };
  const bool all = rules.suppressed_count == 0;
#pragma unroll 8
  for (int64_t id = threadIdx.x; id < vocab; id += kBlock) {
    const bool possible = logits[id] > -INFINITY;  // false for NaN
    chances[id] = possible ? 0 : kImpossible;
    if (all && possible) see(id);
  }
  __syncthreads();
  if (!all) {
    for (int64_t i = threadIdx.x; i < rules.suppressed_count; i += kBlock)
      if (const int32_t id = rules.suppressed[i]; id >= 0 && id < vocab) chances[id] = kImpossible;
    __syncthreads();
    for (int64_t id = threadIdx.x; id < vocab; id += kBlock)
      if (chances[id] != kImpossible) see(id);
  }
  first = joined<kBlock>(first, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
  if (first == kNowhere) return -1;
  const float greatest = logits[first & 0xffffffff];
#pragma unroll 4
  for (int64_t id = threadIdx.x; temperature > 0 && id < vocab; id += kBlock)
    if (chances[id] != kImpossible) {  // equal infinities have no difference
      const double below = logits[id] == greatest ? 0 : (double(logits[id]) - double(greatest)) / temperature;
      chances[id] = uint64_t(exp(below) * kOne + 0.5);
    }
  __syncthreads();
  return int64_t(first & 0xffffffff);
}

// The lowest id that is not suppressed.
template <int kBlock>
__device__ int64_t first_allowed(int64_t vocab, const Rules& rules) {
  int64_t first = INT64_MAX;
  for (int64_t id = threadIdx.x; id < vocab; id += kBlock) {
    bool allowed = true;
    for (int64_t i = 0; i < rules.suppressed_count; ++i) allowed &= rules.suppressed[i] != id;
    if (allowed && id < first) first = id;
  }
  return joined<kBlock>(first, [](int64_t a, int64_t b) { return a < b ? a : b; });
}

// A row's tokens and what is left of them so far.
template <int kBlock>
struct Candidates {
  const float* logits;
  const uint64_t* chances;
  int64_t vocab;
  Limit ranked, typical;
  uint64_t least = 1;  // chance
  double entropy = 0, log_whole = 0;

  // How far a token's surprise is from the mean, as a number that ascends with it.
  __device__ uint64_t typical_place(uint64_t chance) const {
    return uint64_t(__double_as_longlong(fabs(log_whole - log(double(chance)) - entropy)));
  }
  __device__ uint64_t chance_of(int64_t id) const {  // 0: left out
    const uint64_t chance = chances[id];
    if (chance == kImpossible || chance < least || !ranked.holds(rank_place(logits[id]), id)) return 0;
    return typical.place == kNowhere || typical.holds(typical_place(chance), id) ? chance : 0;
  }
  __device__ uint64_t whole() const {
    uint64_t sum[1] = {};
    for (int64_t id = threadIdx.x; id < vocab; id += kBlock) sum[0] += chance_of(id);
    add_up<kBlock>(sum);
    return sum[0];
  }
  __device__ Limit find_ranked(uint64_t target) const {
    return find<kBlock>(vocab, 0xffffffff, target, [&](int64_t id, uint64_t& place) {
      place = rank_place(logits[id]);
      return chance_of(id);
    });
  }
  // The token with which the chances, by ids, reach `share` of their sum. A stretch of ids for each thread of the
  // block.
  __device__ int64_t find_by_id(double share) const {
    __shared__ uint64_t sums[kBlock];
    __shared__ int64_t found;
    const int64_t length = divide_up(divide_up(vocab, kBlock), 32) * 32;
    const int lane = int(threadIdx.x % 32);
    for (int stretch = int(threadIdx.x / 32); stretch < kBlock; stretch += kBlock / 32) {
      uint64_t sum = 0;
      const int64_t end = min((stretch + 1) * length, vocab);
      for (int64_t id = stretch * length + lane; id < end; id += 32) sum += chance_of(id);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
      if (lane == 0) sums[stretch] = sum;
    }
    __syncthreads();
    uint64_t whole[1] = {sums[threadIdx.x]};
    add_up<kBlock>(whole);
    if (threadIdx.x < 32) {
      uint64_t left = part_of(share, whole[0]);  // to be reached
      int64_t begin = 0;
      for (int first = 0; first < kBlock; first += 32)  // stretches, then ids of one
        if (const int at = reach(sums[first + lane], left); at < 32) {
          begin = (first + at) * length;
          break;
        }
      for (int64_t first = begin; first < vocab; first += 32)
        if (const int at = reach(first + lane < vocab ? chance_of(first + lane) : 0, left); at < 32) {
          if (lane == 0) found = first + at;
          break;
        }
    }
    __syncthreads();
    return found;
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

  // Whether that leaves any out.
  __device__ bool keep_top(int64_t k) {
    uint64_t count[1] = {};
    for (int64_t id = threadIdx.x; id < vocab; id += kBlock) count[0] += chances[id] != kImpossible;
    add_up<kBlock>(count);
    if (k == 0 || uint64_t(k) >= count[0]) return false;
    ranked = find<kBlock>(vocab, 0xffffffff, uint64_t(k), [&](int64_t id, uint64_t& place) {
      place = rank_place(logits[id]);
      return uint64_t(chances[id] != kImpossible);
    });
    return true;
  }
  __device__ void keep_typical(double p) {
    const uint64_t sum = whole();
    log_whole = log(double(sum));
    double mean = 0;
    for (int64_t id = threadIdx.x; id < vocab; id += kBlock)
      if (const double chance = double(chance_of(id)); chance > 0)
        mean += chance / double(sum) * (log_whole - log(chance));
    entropy = joined<kBlock>(mean, [](double a, double b) { return a + b; });
    typical = find<kBlock>(vocab, kNowhere >> 1, part_of(p, sum), [&](int64_t id, uint64_t& place) {
      const uint64_t chance = chance_of(id);
      place = chance > 0 ? typical_place(chance) : 0;
      return chance;
    });
  }
  __device__ void keep_likely(double min_p) {
    uint64_t greatest = 0;
    for (int64_t id = threadIdx.x; id < vocab; id += kBlock)
      if (const uint64_t chance = chance_of(id); chance > greatest) greatest = chance;
    least = part_of(min_p, joined<kBlock>(greatest, [](uint64_t a, uint64_t b) { return a > b ? a : b; }));
  }
};

template <int kBlock>
__device__ int64_t draw(Candidates<kBlock> candidates, const Rules& rules, int64_t row) {
  const int64_t* const key = rules.keys[row];
  const double uniform = unit_interval(philox(uint64_t(key[0]), uint64_t(key[2]), uint64_t(key[1]))[0]);
  const double typical_p = rules.typical_p[row], top_p = rules.top_p[row], min_p = rules.min_p[row];
  bool by_rank = candidates.keep_top(rules.top_k[row]);
  if (typical_p < 1) candidates.keep_typical(typical_p);
  if (top_p < 1) candidates.ranked = candidates.find_ranked(part_of(top_p, candidates.whole()));
  if (min_p > 0) candidates.keep_likely(min_p);
  by_rank |= typical_p < 1 || top_p < 1 || min_p > 0;
  if (!by_rank) return candidates.find_by_id(uniform);
  return candidates.find_ranked(part_of(uniform, candidates.whole())).id;
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    sample_rows(int32_t* tokens, Rows<const float> logits, uint64_t* chances, Rules rules) {
  follow();
  const int64_t row = block_index(), vocab = logits.width;
  if (row >= logits.count) return;
  uint64_t* const mine = chances + row * vocab;
  int64_t token = weigh<kBlock>(mine, logits[row], vocab, double(rules.temperature[row]), rules);
  if (token < 0) token = first_allowed<kBlock>(vocab, rules);
  else if (rules.temperature[row] != 0 && rules.top_k[row] != 1)
    token = draw<kBlock>({logits[row], mine, vocab, {}, {}}, rules, row);
  if (threadIdx.x == 0) tokens[row] = int32_t(token);
}

}  // namespace

void sample(Stream& stream, const Sample& op) {
  const Rows<const float> logits = rows_of<const float>(op.logits);
  const Rules rules{.temperature = op.temperature.elements<float>(),
                    .typical_p = op.typical_p.elements<float>(),
                    .top_p = op.top_p.elements<float>(),
                    .min_p = op.min_p.elements<float>(),
                    .top_k = op.top_k.elements<int32_t>(),
                    .keys = rows_of<const int64_t>(op.keys),
                    .suppressed = op.suppressed ? op.suppressed.elements<int32_t>() : nullptr,
                    .suppressed_count = op.suppressed ? op.suppressed.dim(0) : 0};
  const Scratch chances(stream, size_t(logits.count * logits.width + 1) * sizeof(uint64_t));
  const auto start = [&]<int kBlock>() {
    launch_following(stream, "sample", logits.count, dim3(kBlock), sample_rows<kBlock>, op.tokens.elements<int32_t>(),
                     logits, chances.as<uint64_t>(), rules);
  };
  if (logits.width <= kWarpWidth) start.operator()<32>();
  else start.operator()<512>();
}

}  // namespace fulgur::cuda

// A row is read once and kept by a few thread blocks, which then look at it together. Chances are whole numbers of
// 2^-44 of the greatest one, so their sums are exact in any order; every cut of the row (top-k, typical-p, top-p) and
// the draw after it ask for the first token, in some order, with which a sum is reached (ops/cuda/token_search.cuh).
// Where nothing is cut the order is that of ids.
#include <optional>

#include "base/random.h"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/cuda/token_search.cuh"
#include "ops/sample.h"

namespace fulgur::cuda {
namespace {

constexpr double kOne = 0x1p44;           // the greatest chance
constexpr double kSurprise = 0x1p58;      // of an entropy, which stays below 64
constexpr size_t kRoomyBlock = 66 << 10;  // bytes; of larger blocks a processor has too few

struct Rules {
  const float *temperature, *typical_p, *top_p, *min_p;
  const int32_t* top_k;
  Rows<const int64_t> keys;
  const int32_t* suppressed;
  int64_t suppressed_count;
};

// The smallest whole weight that is `share` of `whole`, at least 1.
__device__ uint64_t part_of(double share, uint64_t whole) {
  const double part = ceil(share * double(whole));
  return part < 1 ? 1 : part < double(whole) ? uint64_t(part) : whole;
}

// A row's tokens and what is left of them so far. What cuts need is not inlined, so that rows without them are served
// by few registers.
template <int kWarps>
struct Candidates {
  const TokenSearch<kWarps>& tokens;
  float greatest;
  double temperature;
  Limit ranked = {}, typical = {};
  uint64_t least = 1;  // chance
  double entropy = 0, log_whole = 0;

  __device__ bool possible(int at) const { return tokens.logit(at) > -INFINITY; }  // false for NaN
  __device__ uint64_t place_of(int at) const { return rank_place(tokens.logit(at)); }

  // How far a token's surprise is from the mean, as a number that ascends with it.
  __device__ uint64_t typical_place(uint64_t chance) const {
    return uint64_t(__double_as_longlong(fabs(log_whole - log(double(chance)) - entropy)));
  }
  __device__ uint64_t chance_of(int at) const {  // 0: left out
    if (!possible(at) || !ranked.holds(place_of(at), tokens.id(at))) return 0;
    const float logit = tokens.logit(at);  // equal infinities have no difference
    double below = logit == greatest ? 0 : double(logit) - double(greatest);
    if (temperature != 1) below /= temperature;
    const uint64_t chance = uint64_t(exp(below) * kOne + 0.5);
    if (chance < least) return 0;
    return typical.place == kNowhere || typical.holds(typical_place(chance), tokens.id(at)) ? chance : 0;
  }
  __device__ __noinline__ uint64_t cut_chance_of(int at) const { return chance_of(at); }
  __device__ __noinline__ uint64_t whole() const {
    uint64_t sum = 0;
    tokens.for_tokens([&](int at) { sum += cut_chance_of(at); });
    return tokens.cluster().sum(sum);
  }
  __device__ __noinline__ Limit find_ranked(uint64_t target) const {
    return tokens.find(
        0xffffffff, target, [&](int at) { return place_of(at); }, [&](int at) { return cut_chance_of(at); });
  }

  // Whether that leaves any out.
  __device__ bool keep_top(int64_t k) {
    if (k == 0) return false;
    uint64_t count = 0;
    tokens.for_tokens([&](int at) { count += possible(at); });
    if (uint64_t(k) >= tokens.cluster().sum(count)) return false;
    ranked = tokens.find(
        0xffffffff, uint64_t(k), [&](int at) { return place_of(at); }, [&](int at) { return uint64_t(possible(at)); });
    return true;
  }
  __device__ void keep_typical(double p) {
    const uint64_t sum = whole();
    log_whole = log(double(sum));
    uint64_t mean = 0;
    tokens.for_tokens([&](int at) {
      if (const double chance = double(cut_chance_of(at)); chance > 0)
        mean += uint64_t(llrint(chance / double(sum) * (log_whole - log(chance)) * kSurprise));
    });
    entropy = double(tokens.cluster().sum(mean)) / kSurprise;
    const auto place = [&](int at) {
      const uint64_t chance = cut_chance_of(at);
      return chance > 0 ? typical_place(chance) : kNowhere;
    };
    typical = tokens.find(kNowhere >> 1, part_of(p, sum), place, [&](int at) { return cut_chance_of(at); });
  }
  __device__ void keep_likely(double min_p) {
    uint64_t most = 0;
    tokens.for_tokens([&](int at) {
      if (const uint64_t chance = cut_chance_of(at); chance > most) most = chance;
    });
    least = part_of(min_p, tokens.cluster().greatest(most));
  }
};

// Whether a row's rules leave any token out.
template <int kWarps>
__device__ __noinline__ bool cut(Candidates<kWarps>& candidates, const Rules& rules, int64_t row) {
  const double typical_p = rules.typical_p[row], top_p = rules.top_p[row], min_p = rules.min_p[row];
  const bool top = candidates.keep_top(rules.top_k[row]);
  if (typical_p < 1) candidates.keep_typical(typical_p);
  if (top_p < 1) candidates.ranked = candidates.find_ranked(part_of(top_p, candidates.whole()));
  if (min_p > 0) candidates.keep_likely(min_p);
  return top || typical_p < 1 || top_p < 1 || min_p > 0;
}

// The token in one warp, kNowhere in the others.
template <int kWarps>
__device__ uint64_t draw(const Candidates<kWarps>& all, const Rules& rules, int64_t row) {
  const int64_t* const key = rules.keys[row];
  const double uniform = unit_interval(philox(uint64_t(key[0]), uint64_t(key[2]), uint64_t(key[1]))[0]);
  if (rules.top_k[row] > 0 || rules.typical_p[row] < 1 || rules.top_p[row] < 1 || rules.min_p[row] > 0)
    if (Candidates<kWarps> left = all; cut(left, rules, row))
      return left.find_ranked(part_of(uniform, left.whole())).id;
  return all.tokens.find_by_id([&](int at) { return all.chance_of(at); },
                               [&](uint64_t whole) { return part_of(uniform, whole); });
}

// Place and id of the greatest logit, the lowest id among equals.
template <int kWarps>
__device__ uint64_t best_of(const TokenSearch<kWarps>& tokens) {
  uint64_t best = kNowhere;
  tokens.for_tokens([&](int at) {
    const uint64_t ranked = uint64_t(rank_place(tokens.logit(at))) << 32 | tokens.id(at);
    if (tokens.logit(at) > -INFINITY && ranked < best) best = ranked;
  });
  return tokens.cluster().least(best);
}

// The lowest id that is not suppressed.
template <int kWarps>
__device__ uint64_t first_allowed(const TokenSearch<kWarps>& tokens, const Rules& rules) {
  uint64_t first = kNowhere;
  tokens.for_tokens([&](int at) {
    bool allowed = true;
    for (int64_t i = 0; i < rules.suppressed_count; ++i) allowed &= uint64_t(rules.suppressed[i]) != tokens.id(at);
    if (allowed && tokens.id(at) < first) first = tokens.id(at);
  });
  return tokens.cluster().least(first);
}

// `kept`: [rows, blocks, share] where a block's share of a row does not fit into its shared memory, else null.
template <int kWarps>
__global__ void __launch_bounds__(kWarps * 32, kWarps > 1 ? 2 : 1)
    sample_rows(int32_t* chosen, Rows<const float> logits, float* kept, int share, int blocks, Rules rules) {
  follow();
  const int64_t row = block_index() / blocks;
  if (row >= logits.count) return;
  auto& places = *reinterpret_cast<typename RowCluster<kWarps>::Places*>(dynamic_shared());
  RowCluster<kWarps> cluster(places, blocks);
  float* const mine = kept ? kept + block_index() * share : reinterpret_cast<float*>(&places + 1);
  const TokenSearch<kWarps> tokens(cluster, mine, logits.width, share);
  tokens.read(logits[row], rules.suppressed, rules.suppressed_count);
  cluster.begin();
  const uint64_t best = best_of(tokens);
  const float temperature = rules.temperature[row];
  uint64_t token = best & 0xffffffff;
  if (best == kNowhere) {
    token = first_allowed(tokens, rules);
  } else if (temperature != 0 && rules.top_k[row] != 1) {
    token = draw<kWarps>({tokens, logits[row][token], double(temperature)}, rules, row);
  }
  if (threadIdx.x % 32 == 0 && token != kNowhere) chosen[row] = int32_t(token);
}

// How a row of `width` tokens lies in `blocks` thread blocks.
template <int kWarps>
struct Spread {
  int blocks, share;
  size_t bytes() const { return sizeof(typename RowCluster<kWarps>::Places) + size_t(share) * sizeof(float); }
  Spread(int64_t width, int blocks)
      : blocks(blocks), share(int(divide_up(divide_up(width, blocks * kWarps), 32) * 32 * kWarps)) {}
};

// As many blocks a row as run at once, and no fewer than keep their shares small.
template <int kWarps>
Spread<kWarps> spread_of(int64_t rows, int64_t width) {
  int blocks = kWarps > 1 && has_clusters() ? kMostRowBlocks : 1;
  const auto half = [&] { return Spread<kWarps>(width, blocks / 2); };
  while (blocks > 1 && rows * blocks > 2 * processors() && half().bytes() <= kRoomyBlock) blocks /= 2;
  return {width, blocks};
}

template <int kWarps>
void sample_with(Stream& stream, const Sample& op, const Rules& rules) {
  const Rows<const float> logits = rows_of<const float>(op.logits);
  if (logits.count == 0) return;
  const Spread<kWarps> spread = spread_of<kWarps>(logits.count, logits.width);
  const bool fits = int64_t(spread.bytes()) <= block_memory();
  std::optional<Scratch> kept;
  if (!fits) kept.emplace(stream, size_t(logits.count * spread.blocks * spread.share) * sizeof(float));
  Grid grid = grid_of(logits.count * spread.blocks, dim3(kWarps * 32));
  grid.shared_bytes = fits ? spread.bytes() : sizeof(typename RowCluster<kWarps>::Places);
  grid.cluster = unsigned(spread.blocks), grid.follows = true;
  allow_block_memory("sample", sample_rows<kWarps>, grid.shared_bytes);
  launch(stream, "sample", grid, sample_rows<kWarps>, op.tokens.elements<int32_t>(), logits,
         kept ? kept->as<float>() : nullptr, spread.share, spread.blocks, rules);
}

}  // namespace

void sample(Stream& stream, const Sample& op) {
  const Rules rules{.temperature = op.temperature.elements<float>(),
                    .typical_p = op.typical_p.elements<float>(),
                    .top_p = op.top_p.elements<float>(),
                    .min_p = op.min_p.elements<float>(),
                    .top_k = op.top_k.elements<int32_t>(),
                    .keys = rows_of<const int64_t>(op.keys),
                    .suppressed = op.suppressed ? op.suppressed.elements<int32_t>() : nullptr,
                    .suppressed_count = op.suppressed ? op.suppressed.dim(0) : 0};
  if (op.logits.dim(1) <= kWarpWidth) sample_with<1>(stream, op, rules);
  else sample_with<16>(stream, op, rules);
}

}  // namespace fulgur::cuda

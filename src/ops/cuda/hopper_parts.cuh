// What a product for Hopper is made of (ops/cuda/hopper_products.cuh): its operands, the parts of c that clusters of
// thread blocks take, and the stages of k that a part walks.
#pragma once
#include "ops/cuda/factors.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/tensor_map.cuh"

namespace fulgur::cuda::hopper_products {

inline constexpr int kCluster = 2, kStages = 4, kSteps = 64;
inline constexpr int kBlockRows = 128, kClusterRows = kCluster * kBlockRows;
inline constexpr int kWide = 256, kNarrow = 128;      // columns of a part
inline constexpr int kBoxLines = kNarrow / kCluster;  // of b that a copy brings, where they lie on rows of their own
inline constexpr int kWarpgroup = 128, kMultipliers = 2, kProductThreads = (1 + kMultipliers) * kWarpgroup;
inline constexpr int kBand = 8;  // clusters' rows that are walked column by column, so that a and b stay in the cache
inline constexpr uint16_t kBothBlocks = 3;

// y = x w^T; dx = dy w; dw = dy^T x, where the rows of groups are k.
enum class Kind : uint8_t { output, input_gradient, weight_gradient };

// What a thread block computes at a time: the first kBlockRows of rows [m, m_end), columns from n on, steps [k, k_end).
// For the cluster's second block there may be no rows.
struct Part {
  int group, m, m_end, n, k, k_end;
  bool wide;  // where some are, see kHalvesLast
};

template <Kind kKindOf, class Number>
struct Product {
  static constexpr Kind kKind = kKindOf;
  static constexpr bool kRowsAlongK = kKind == Kind::weight_gradient;
  // Whether wide parts that are left when all clusters have had as many are cut in two, if that shares them out.
  static constexpr bool kHalvesLast = kKind == Kind::output;
  static constexpr int kTurnedA = kKind == Kind::weight_gradient, kTurnedB = kKind != Kind::output;
  using C = Number;

  TensorMap a, b;
  C* c;
  int64_t c_row;
  int m, n, k;
  bool adds, wide;
  Groups groups;

  __device__ int columns() const { return wide ? kWide : kNarrow; }  // of c that most parts have
  __device__ bool is_wide(const Part& part) const { return kHalvesLast ? part.wide : wide; }
  __device__ int lines(const Part& part) const { return is_wide(part) ? kWide : kNarrow; }  // of b that a stage has
};

// y = SiLU(a b) * (a b_up): a part has as many columns of either.
struct GatedProduct : Product<Kind::output, bf16> {
  static constexpr bool kHalvesLast = false;
  TensorMap b_up;
  bf16 *gate, *up;  // null: not kept

  __device__ int columns() const { return kNarrow; }
  __device__ bool is_wide(const Part&) const { return true; }
  __device__ int lines(const Part&) const { return kWide; }
};

// dx = dy w of x = SiLU(gate) * up, rounded; in its place, c, the gradient of gate, beside it that of up.
struct GateGradientProduct : Product<Kind::input_gradient, bf16> {
  const bf16 *gate, *up;
  int64_t gate_row;  // of either
  bf16* dup;         // laid out as c
};

// Finds parts by their numbers, which ascend from call to call.
template <class P>
class Walk {
 public:
  explicit __device__ Walk(const P& product) : p_(product) {
    if constexpr (P::kHalvesLast)
      if (p_.wide) whole_ = whole_parts();
  }

  __device__ bool find(int number, int rank, Part& part) {
    const int across = int(divide_up(p_.n, p_.columns()));
    int half = 0;
    if constexpr (P::kHalvesLast) {
      half = number > whole_ ? number - whole_ : 0;
      number -= int(divide_up(half, 2));
    }
    for (; group_ < p_.groups.count; ++group_) {
      const auto [begin, end, down] = extent(group_);
      const int rows = P::kRowsAlongK ? p_.m : end - begin, here = number - passed_;
      if (here < down * across) {
        const int band = here / (kBand * across), left = here % (kBand * across);
        const int high = min(kBand, down - band * kBand);
        const int m = (band * kBand + left % high) * kClusterRows + rank * kBlockRows,
                  first = P::kRowsAlongK ? 0 : begin;
        part = {group_,
                first + m,
                first + rows,
                left / high * p_.columns() + half % 2 * kNarrow,
                P::kRowsAlongK ? begin : 0,
                P::kRowsAlongK ? end : p_.k,
                p_.wide && number < whole_};
        return true;
      }
      passed_ += down * across;
    }
    return false;
  }
  __device__ int passed() const { return passed_; }  // all parts there are, once one was not found

 private:
  struct Extent {
    int begin, end, down;
  };
  __device__ Extent extent(int group) const {
    const int begin = p_.groups.begin ? p_.groups.begin[group] : 0;
    const int end = p_.groups.begin ? p_.groups.begin[group + 1] : P::kRowsAlongK ? p_.k : p_.m;
    return {begin, end, int(divide_up(P::kRowsAlongK ? p_.m : end - begin, kClusterRows))};
  }

  // How many parts stay as wide as they are.
  __device__ int whole_parts() const {
    int parts = 0;
    for (int group = 0; group < p_.groups.count; ++group) parts += extent(group).down;
    parts *= int(divide_up(p_.n, p_.columns()));
    const int clusters = int(gridDim.x) / kCluster, left = parts % clusters;
    return left > 0 && left <= clusters / 2 ? parts - left : parts;
  }

  const P& p_;
  int whole_ = INT32_MAX, group_ = 0, passed_ = 0;
};

// The number of the part that a cluster takes at its turn i. Parts of another product, `before` of them, went round the
// clusters first; who had the last of those misses `head_start` turns.
__device__ inline int part_at(int turn, int before, int head_start) {
  const int clusters = int(gridDim.x) / kCluster, busy = before % clusters, free = clusters - busy;
  const int own = int(blockIdx.x) / kCluster - busy;
  if (own < 0) turn += head_start;
  if (turn < head_start) return turn * free + own;
  return head_start * free + (turn - head_start) * clusters + (own < 0 ? own + clusters : own);
}

// visit(part) for every part of the thread block, those without steps too; returns `before` and the product's parts.
template <class P, class Visit>
__device__ __forceinline__ int for_each_part(const P& p, int before, int head_start, const Visit& visit) {
  Walk<P> walk(p);
  Part part;
  const int rank = int(blockIdx.x) % kCluster;
  for (int turn = 0; walk.find(part_at(turn, before, head_start), rank, part); ++turn) visit(part);
  return before + walk.passed();
}

// Where the steps of a part end, which begin anew where row numbers pass a multiple of groups.cut. All lanes of a warp
// together; they ask for k ascending.
class Steps {
 public:
  __device__ Steps(const Groups& groups, const Part& part) : groups_(groups), k_end_(part.k_end) {
    if (groups.cut) fetch(part.k);
  }
  __device__ int end_of(int k) {
    int end = min(k + kSteps, k_end_);
    if (!groups_.cut) return end;
    const int first = __shfl_sync(kAllLanes, numbers_[0], 0);
    if (first >= limit_) limit_ = (first / int(groups_.cut) + 1) * int(groups_.cut);
#pragma unroll
    for (int half = 1; half >= 0; --half) {
      const uint32_t lanes = __ballot_sync(kAllLanes, numbers_[half] >= limit_);
      if (lanes) end = min(end, k + half * 32 + __ffs(int(lanes)) - 1);
    }
    fetch(end);
    return end;
  }

 private:
  // The row numbers of the next steps, on their way while others are waited for.
  __device__ void fetch(int k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int mine = k + half * 32 + int(threadIdx.x % 32);
      numbers_[half] = mine < k_end_ ? groups_.numbers[mine] : -1;
    }
  }

  const Groups& groups_;
  int k_end_, limit_ = 0, numbers_[2];
};

}  // namespace fulgur::cuda::hopper_products

// dk and dv of a tile of 128 keys: two warpgroups of 64 keys each; the rows that see them stream by in tiles of 96,
// ascending, for one head after another. The heads of a KV head are shared out evenly over a few thread blocks of one
// cluster, whose sums are added up in their order: a sum's order is the model's, never the batch's.
#pragma once
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/softmax_hopper_backward.cuh"

namespace fulgur::cuda::softmax_hopper {

inline constexpr int kStreamed = 96;  // rows of a tile: what registers hold of scores beside dk and dv
inline constexpr int kStreamedBytes = kStreamed * kTileRowBytes;  // of 64 of their columns

struct alignas(1024) KeysShared {
  static constexpr int kStages = 3;
  static constexpr int kStride = kWidth + 8;  // of sums, so that eight rows reach all banks
  union {
    struct {
      uint8_t k[kMultipliers][kRowsBytes], v[kMultipliers][kRowsBytes];
      uint8_t rows[2][kStages][2 * kStreamedBytes];  // q, do
    };
    float sums[2][kKeys][kStride];  // dk, dv of one thread block at the end
  };
  float statistics[2][kStages][kStreamed];  // of rows: what exp2 takes from the scaled scores, do . o
  Ring<kStages> rings[2];
};

// The keys of a thread block, and the rows that see them.
struct KeyTile {
  int64_t sequence, kv_head, begin;  // the sequence's first row in the batch
  int rank, first, length;           // in the cluster; the tile's first position; the sequence's rows
  int heads, rows;                   // of the thread block; tiles of rows for each

  __device__ KeyTile(const Backward& op, int64_t item)
      : sequence(item / op.sharing / op.kv_heads % op.sequences),
        kv_head(item / op.sharing % op.kv_heads),
        begin(op.row_begin(sequence)),
        rank(int(item % op.sharing)),
        first(int(item / op.sharing / op.kv_heads / op.sequences) * kKeys),
        length(int(op.row_begin(sequence + 1) - begin)),
        heads(op.group / op.sharing),
        rows((length - first + kStreamed - 1) / kStreamed) {}
  __device__ bool empty() const { return first >= length; }
  __device__ int present(int row) const { return length - row; }
};

// By a warp: half of each tile of q, or of do, with what is known of its rows.
__device__ inline void stream_rows(const Backward& op, const KeyTile& keys, KeysShared& shared) {
  constexpr int kHalf = kStreamed / 2;
  const int kind = int(threadIdx.x) / 32 % 2, first = int(threadIdx.x) / 64 % 2 * kHalf, lane = int(threadIdx.x) % 32;
  const View<const bf16, 3>& from = kind == 0 ? op.q : op.d_o;
  const int heads_begin = int(keys.kv_head) * op.group + keys.rank * keys.heads;
  for (int n = 0, head = heads_begin; head < heads_begin + keys.heads; ++head)
    for (int tile = 0; tile < keys.rows; ++tile, ++n) {
      const int row0 = keys.first + tile * kStreamed + first, present = keys.present(row0);
      const int stage = n % KeysShared::kStages;
      const int64_t at = keys.begin + row0;
      shared.rings[kind].wait_empty(n);
      copy_rows<kHalf, 32>(shared.rows[kind][stage] + first * kTileRowBytes, kStreamedBytes, lane, present,
                           &from(at, head, 0), from.stride[0]);
      for (int row = lane; row < kHalf; row += 32) {
        float& known = shared.statistics[kind][stage][first + row];
        if (kind == 0) known = row < present ? op.log_sum_exp(head, at + row) * kLog2E : INFINITY;
        else known = row < present ? op.along(head, at + row) : 0;
      }
      shared.rings[kind].fill(n);
    }
}

class KeyGradient {
 public:
  __device__ KeyGradient(const Backward& op, const KeyTile& keys, KeysShared& shared, int warpgroup)
      : op_(op),
        keys_(keys),
        shared_(shared),
        warpgroup_(warpgroup),
        thread_(int(threadIdx.x) % kWarpgroup),
        key_(warpgroup * kRows + thread_ / 32 * 16 + thread_ % 32 / 4) {}

  // Leaves the thread block's sums in shared memory.
  __device__ __forceinline__ void run() {
    fetch_keys();
    float dk[64], dv[64], scores[kStreamed / 2];  // the scores' registers are the flow's too
    uint32_t weights[kStreamed / 16][4];          // then gradients
    int ahead = 0;                                // rows of the sequence from the tile of keys to that of rows
    int n = 0;
    do {
      shared_.rings[0].wait_full(n);
      multiply_heads(scores, shared_.k[warpgroup_], rows(0, n));
      products_wait<0>(scores);
      if (n > 0) shared_.rings[0].release(n - 1);
      weigh(scores, n, ahead);
      ahead = ahead + kStreamed < keys_.rows * kStreamed ? ahead + kStreamed : 0;
      pack(scores, weights);
      shared_.rings[1].wait_full(n);
      multiply_heads(scores, shared_.v[warpgroup_], rows(1, n));
      add_rows(dv, weights, rows(1, n), kStreamedBytes, n > 0);
      products_wait<0>(scores);
      weights_to_gradients(weights, scores, n);
      shared_.rings[1].release(n);
      add_rows(dk, weights, rows(0, n), kStreamedBytes, n > 0);
    } while (++n < keys_.heads * keys_.rows);
    products_wait<0>(dk), products_wait<0>(dv);
    named_barrier(3, kMultipliers * kWarpgroup);  // nobody reads tiles any more
    leave(0, dk), leave(1, dv);
  }

 private:
  __device__ const uint8_t* rows(int kind, int n) const { return shared_.rows[kind][n % KeysShared::kStages]; }

  __device__ void fetch_keys() const {
    const int row0 = keys_.first + warpgroup_ * kRows, present = keys_.present(row0);
    const int64_t row = keys_.begin + row0;
    copy_rows<kRows, kWarpgroup>(shared_.k[warpgroup_], kTileBytes, thread_, present, &op_.k(row, keys_.kv_head, 0),
                                 op_.k.stride[0]);
    copy_rows<kRows, kWarpgroup>(shared_.v[warpgroup_], kTileBytes, thread_, present, &op_.v(row, keys_.kv_head, 0),
                                 op_.v.stride[0]);
    wait_for_copies();
    fence_for_products();
    named_barrier(1 + warpgroup_, kWarpgroup);
  }

  // body(i, known): what is known of the row of sums i and i + 1, and of the next one.
  template <class Body>
  __device__ __forceinline__ void for_rows(int kind, int n, const Body& body) const {
    const float* const known = shared_.statistics[kind][n % KeysShared::kStages] + thread_ % 4 * 2;
#pragma unroll
    for (int j = 0; j < kStreamed / 8; ++j) {
      const float2 two = *reinterpret_cast<const float2*>(known + 8 * j);
      body(4 * j, two), body(4 * j + 2, two);
    }
  }

  // Scores to weights, zero where a row does not see a key.
  __device__ __forceinline__ void weigh(float (&scores)[kStreamed / 2], int n, int ahead) const {
    const float scale = __fmul_rn(op_.scale, kLog2E);
    for_rows(0, n, [&](int i, float2 shift) {
      scores[i] = exp2_approximate(__fmaf_rn(scale, scores[i], -shift.x));
      scores[i + 1] = exp2_approximate(__fmaf_rn(scale, scores[i + 1], -shift.y));
    });
    if (ahead >= (warpgroup_ + 1) * kRows) return;
#pragma unroll
    for (int i = 0; i < kStreamed / 2; ++i)
      if (key_ + i / 2 % 2 * 8 > ahead + i / 4 * 8 + thread_ % 4 * 2 + i % 2) scores[i] = 0;
  }
  // Weights, as they met do, to gradients of scores.
  __device__ __forceinline__ void weights_to_gradients(uint32_t (&weights)[kStreamed / 16][4],
                                                       const float (&flow)[kStreamed / 2], int n) const {
    for_rows(1, n, [&](int i, float2 along) {
      uint32_t& pair = weights[i / 8][i / 2 % 4];
      pair = bf16_pair(__fmul_rn(__uint_as_float(pair << 16), __fadd_rn(flow[i], -along.x)),
                       __fmul_rn(__uint_as_float(pair & 0xffff0000), __fadd_rn(flow[i + 1], -along.y)));
    });
  }

  __device__ __forceinline__ void leave(int which, const float (&sums)[64]) const {
#pragma unroll
    for (int i = 0; i < 64; i += 2)
      *reinterpret_cast<float2*>(&shared_.sums[which][key_ + i / 2 % 2 * 8][i / 4 * 8 + thread_ % 4 * 2]) = {
          sums[i], sums[i + 1]};
  }

  const Backward& op_;
  const KeyTile& keys_;
  KeysShared& shared_;
  const int warpgroup_, thread_, key_;  // key_: of the tile, the thread's first
};

// Adds up the sums of the cluster's thread blocks, every sharing-th key by each of them: a warp a key.
__device__ inline void add_up(const Backward& op, const KeyTile& keys, const KeysShared& shared) {
  const int warps = kMultipliers * kWarpgroup / 32, column = int(threadIdx.x) % 32 * 4;
  for (int item = int(threadIdx.x) / 32; item < 2 * kKeys / op.sharing + 2; item += warps) {
    const int which = item % 2, key = item / 2 * op.sharing + keys.rank;
    if (key >= kKeys || key >= keys.present(keys.first)) continue;
    float4 sum = load_shared(&shared.sums[which][key][column], 0);
    for (int rank = 1; rank < op.sharing; ++rank) {
      const float4 more = load_shared(&shared.sums[which][key][column], uint32_t(rank));
      sum = {__fadd_rn(sum.x, more.x), __fadd_rn(sum.y, more.y), __fadd_rn(sum.z, more.z), __fadd_rn(sum.w, more.w)};
    }
    const float factor = which == 0 ? op.scale : 1;
    const View<bf16, 3>& to = which == 0 ? op.dk : op.dv;
    *reinterpret_cast<uint2*>(&to(keys.begin + keys.first + key, keys.kv_head, column)) = {
        bf16_pair(__fmul_rn(sum.x, factor), __fmul_rn(sum.y, factor)),
        bf16_pair(__fmul_rn(sum.z, factor), __fmul_rn(sum.w, factor))};
  }
}

}  // namespace fulgur::cuda::softmax_hopper

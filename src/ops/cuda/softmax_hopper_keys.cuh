// dk and dv of a tile of 128 keys: two warpgroups of 64 keys each; the rows that see them stream by in tiles of 64,
// ascending, for one head after another. The heads of a KV head are shared out evenly over a few thread blocks of one
// cluster, whose sums are added up in their order: a sum's order is the model's, never the batch's.
#pragma once
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/softmax_hopper_backward.cuh"

namespace fulgur::cuda::softmax_hopper {

struct alignas(1024) KeysShared {
  static constexpr int kStages = 4;
  static constexpr int kStride = kWidth + 8;  // of sums, so that eight rows reach all banks
  union {
    struct {
      uint8_t k[kMultipliers][kRowsBytes], v[kMultipliers][kRowsBytes];
      uint8_t rows[2][kStages][kRowsBytes];  // q, do
    };
    float sums[2][kKeys][kStride];  // dk, dv of one thread block at the end
  };
  float statistics[2][kStages][kRows];  // of rows: what exp2 takes from the scaled scores, do . o
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
        rows((length - first + kRows - 1) / kRows) {}
  __device__ bool empty() const { return first >= length; }
  __device__ int present(int row) const { return length - row; }
};

// By a warp: half of each tile of q, or of do, with what is known of its rows.
__device__ inline void stream_rows(const Backward& op, const KeyTile& keys, KeysShared& shared) {
  const int kind = int(threadIdx.x) / 32 % 2, first = int(threadIdx.x) / 64 % 2 * 32, lane = int(threadIdx.x) % 32;
  const View<const bf16, 3>& from = kind == 0 ? op.q : op.d_o;
  const int heads_begin = int(keys.kv_head) * op.group + keys.rank * keys.heads;
  for (int n = 0, head = heads_begin; head < heads_begin + keys.heads; ++head)
    for (int tile = 0; tile < keys.rows; ++tile, ++n) {
      const int row = keys.first + tile * kRows + first, present = keys.present(row), stage = n % KeysShared::kStages;
      const int64_t at = keys.begin + row;
      float known = kind == 0 ? INFINITY : 0;
      if (lane < present) known = kind == 0 ? op.log_sum_exp(head, at + lane) * kLog2E : op.along(head, at + lane);
      shared.rings[kind].wait_empty(n);
      copy_rows<32, 32>(shared.rows[kind][stage] + first * kTileRowBytes, kTileBytes, lane, present, &from(at, head, 0),
                        from.stride[0]);
      shared.statistics[kind][stage][first + lane] = known;
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
    float dk[64], dv[64], scores[32], flow[32];
    uint32_t weights[4][4], gradients[4][4];
    int ahead = 0;  // rows of the sequence from the tile of keys to that of rows
    int n = 0;
    do {
      shared_.rings[0].wait_full(n);
      multiply_heads(scores, shared_.k[warpgroup_], rows(0, n));
      products_wait<1>();
      if (n > 0) shared_.rings[0].release(n - 1), shared_.rings[1].release(n - 1);
      shared_.rings[1].wait_full(n);
      multiply_heads(flow, shared_.v[warpgroup_], rows(1, n));
      products_wait<1>(scores);
      weigh(scores, n, ahead);
      ahead = ahead + kRows < keys_.rows * kRows ? ahead + kRows : 0;
      pack(scores, weights);
      add_rows(dv, weights, rows(1, n), kTileBytes, n > 0);
      products_wait<1>(flow);
      flow_to_gradients(scores, flow, n);
      pack(flow, gradients);
      add_rows(dk, gradients, rows(0, n), kTileBytes, n > 0);
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

  // body(i, known): known of the row of sums i and i + 1, and of the next one.
  template <class Body>
  __device__ __forceinline__ void for_rows(int kind, int n, const Body& body) const {
    const float* const known = shared_.statistics[kind][n % KeysShared::kStages] + thread_ % 4 * 2;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 two = *reinterpret_cast<const float2*>(known + 8 * j);
#pragma unroll
      for (int half = 0; half < 2; ++half) body(4 * j + 2 * half, two.x), body(4 * j + 2 * half + 1, two.y);
    }
  }

  // Scores to weights, zero where a row does not see a key.
  __device__ __forceinline__ void weigh(float (&scores)[32], int n, int ahead) const {
    const float scale = __fmul_rn(op_.scale, kLog2E);
    for_rows(0, n, [&](int i, float shift) { scores[i] = exp2_approximate(__fmaf_rn(scale, scores[i], -shift)); });
    if (ahead >= (warpgroup_ + 1) * kRows) return;
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (key_ + i / 2 % 2 * 8 > ahead + i / 4 * 8 + thread_ % 4 * 2 + i % 2) scores[i] = 0;
  }
  __device__ __forceinline__ void flow_to_gradients(const float (&weights)[32], float (&flow)[32], int n) const {
    for_rows(1, n, [&](int i, float along) { flow[i] = __fmul_rn(weights[i], __fadd_rn(flow[i], -along)); });
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

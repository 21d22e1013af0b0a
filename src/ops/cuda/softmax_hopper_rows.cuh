// dq of a chunk of 128 rows: two warpgroups of 64 rows each, the keys that they see in tiles of 128, ascending.
#pragma once
#include "ops/cuda/softmax_hopper_backward.cuh"

namespace fulgur::cuda::softmax_hopper {

struct alignas(1024) RowsShared {
  static constexpr int kKeyStages = 3, kValueStages = 2;  // a tile of keys stays longer
  uint8_t q[kMultipliers][kRowsBytes], d_o[kMultipliers][kRowsBytes];
  uint8_t k[kKeyStages][2 * kRowsBytes], v[kValueStages][2 * kRowsBytes];
  Ring<kKeyStages> keys;
  Ring<kValueStages> values;
};

__device__ inline void stream_keys(const Backward& op, const Chunk& chunk, RowsShared& shared) {
  const auto block_of = [&](const View<const bf16, 3>& rows, int index) -> HeadRows<const bf16> {
    return {&rows(chunk.begin + int64_t(index) * kRows, chunk.kv_head, 0), rows.stride[0]};
  };
  if (threadIdx.x / 32 % 2 == 0) {
    stream_keys(shared.keys, shared.k, chunk, [&](int index) { return block_of(op.k, index); });
  } else {
    stream_keys(shared.values, shared.v, chunk, [&](int index) { return block_of(op.v, index); });
  }
}

class RowGradient {
 public:
  __device__ RowGradient(const Backward& op, const Chunk& chunk, RowsShared& shared, int warpgroup)
      : op_(op),
        chunk_(chunk),
        shared_(shared),
        warpgroup_(warpgroup),
        thread_(int(threadIdx.x) % kWarpgroup),
        row_(warpgroup * kRows + thread_ / 32 * 16 + thread_ % 32 / 4),
        all_see_(chunk.seen(warpgroup * kRows)) {}

  __device__ __forceinline__ void run() {
    fetch_rows();
    float scores[64], flow[64], dq[64];
    uint32_t weights[8][4];
    const int tiles = chunk_.tiles();
    shared_.keys.wait_full(0);
    for (int tile = 0; tile < tiles; ++tile) {
      multiply_heads(scores, shared_.q[warpgroup_], keys(tile));
      products_wait<1>();
      if (tile > 0) shared_.keys.release(tile - 1);
      shared_.values.wait_full(tile);
      multiply_heads(flow, shared_.d_o[warpgroup_], values(tile));
      products_wait<1>(scores);
      weigh(scores, tile);
      // What waits for a barrier is not moved up by the compiler: the weights are made while the products run.
      if (tile + 1 < tiles) shared_.keys.wait_full(tile + 1);
      products_wait<0>(flow);
      shared_.values.release(tile);
#pragma unroll
      for (int i = 0; i < 64; ++i) flow[i] = __fmul_rn(scores[i], __fadd_rn(flow[i], -along_[i / 2 % 2]));
      pack(flow, weights);
      add_rows(dq, weights, keys(tile), kRowsBytes, tile > 0);
    }
    products_wait<0>(dq);
    const float factor[] = {op_.scale, op_.scale};
    store_rows(shared_.q[warpgroup_], dq, factor, 1 + warpgroup_, [&](int in_tile) -> bf16* {
      const int row = warpgroup_ * kRows + in_tile;
      return chunk_.has(row) ? &op_.dq(chunk_.batch_row(row), chunk_.head(row), 0) : nullptr;
    });
  }

 private:
  __device__ const uint8_t* keys(int tile) const { return shared_.k[tile % RowsShared::kKeyStages]; }
  __device__ const uint8_t* values(int tile) const { return shared_.v[tile % RowsShared::kValueStages]; }

  __device__ void fetch_rows() {
    copy_chunk(shared_.q[warpgroup_], op_.q, chunk_, warpgroup_);
    copy_chunk(shared_.d_o[warpgroup_], op_.d_o, chunk_, warpgroup_);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t head = chunk_.head(row_ + 8 * half), row = chunk_.batch_row(row_ + 8 * half);
      shift_[half] = __fmul_rn(op_.log_sum_exp(head, row), kLog2E), along_[half] = op_.along(head, row);
    }
    wait_for_copies();
    fence_for_products();
    named_barrier(1 + warpgroup_, kWarpgroup);
  }

  // Scores to weights, zero where a row does not see.
  __device__ __forceinline__ void weigh(float (&scores)[64], int tile) const {
    const float scale = __fmul_rn(op_.scale, kLog2E);
#pragma unroll
    for (int i = 0; i < 64; ++i) scores[i] = exp2_approximate(__fmaf_rn(scale, scores[i], -shift_[i / 2 % 2]));
    if ((tile + 1) * kKeys <= all_see_) return;
#pragma unroll
    for (int i = 0; i < 64; ++i)
      if (i / 4 * 8 + thread_ % 4 * 2 + i % 2 >= chunk_.seen(row_ + 8 * (i / 2 % 2)) - tile * kKeys) scores[i] = 0;
  }

  const Backward& op_;
  const Chunk& chunk_;
  RowsShared& shared_;
  const int warpgroup_, thread_, row_;  // row_: of the chunk, the thread's first
  const int all_see_;                   // keys that all of the warpgroup's rows see
  float shift_[2], along_[2];           // of the thread's two rows
};

}  // namespace fulgur::cuda::softmax_hopper

// Softmax attention forward on Hopper: a chunk of 128 rows a thread block. Two warpgroups multiply, 64 rows each, and
// take turns: one's products run beside the other's exponentials. Keys come in tiles of 128 positions from the
// sequence's first token on, whatever the chunk, and what a row does not see adds exact zeros: its bits depend on
// nothing else.
#pragma once
#include "base/grid.h"
#include "ops/cuda/softmax_hopper.cuh"

namespace fulgur::cuda::softmax_hopper {

struct Forward {
  View<bf16, 3> o;
  View<const bf16, 3> q, k, v;
  View<const bf16, 5> pages;  // null: k and v of the batch
  View<const int32_t, 2> table;
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  View<float, 2> log_sum_exp;
  int64_t sequences, kv_heads;
  int chunks, group;  // of a sequence; heads of a KV head
  float scale;        // from a product to a power of two
};

struct alignas(1024) ForwardShared {
  static constexpr int kStages = 3;
  uint8_t q[kMultipliers][kRowsBytes], k[kStages][2 * kRowsBytes], v[kStages][2 * kRowsBytes];
  Ring<kStages> keys, values;
};

// Of the batch, or where pages are given of these.
__device__ inline HeadRows<const bf16> block_of(const Forward& op, const Chunk& chunk, int part, int index) {
  if (op.pages.data) return {&op.pages(op.table(chunk.sequence, index), part, chunk.kv_head, 0, 0), op.pages.stride[3]};
  const View<const bf16, 3>& rows = part == 0 ? op.k : op.v;
  return {&rows(chunk.begin + int64_t(index) * kRows, chunk.kv_head, 0), rows.stride[0]};
}
__device__ inline void stream_keys(const Forward& op, const Chunk& chunk, ForwardShared& shared) {
  if (threadIdx.x / 32 % 2 == 0) {
    stream_keys(shared.keys, shared.k, chunk, [&](int index) { return block_of(op, chunk, 0, index); });
  } else {
    stream_keys(shared.values, shared.v, chunk, [&](int index) { return block_of(op, chunk, 1, index); });
  }
}

// 64 rows by a warpgroup.
class ForwardRows {
 public:
  __device__ ForwardRows(const Forward& op, const Chunk& chunk, ForwardShared& shared, int warpgroup)
      : op_(op),
        chunk_(chunk),
        shared_(shared),
        warpgroup_(warpgroup),
        thread_(int(threadIdx.x) % kWarpgroup),
        row_(warpgroup * kRows + thread_ / 32 * 16 + thread_ % 32 / 4),
        all_see_(chunk.seen(warpgroup * kRows)) {}

  __device__ __forceinline__ void run() {
    fetch_queries();
    float scores[64], sums[64];
    uint32_t weights[8][4];
#pragma unroll
    for (float& sum : sums) sum = 0;
    const int tiles = chunk_.tiles();
    shared_.keys.wait_full(0);
    my_turn();
    score(scores, 0);
    your_turn(tiles == 1);
    products_wait<0>(scores);
    shared_.keys.release(0);
    float shrink[2];
    weigh(scores, shrink, 0);
    pack(scores, weights);
    if (tiles > 1) shared_.keys.wait_full(1);
    for (int tile = 1; tile < tiles; ++tile) {
      my_turn();
      score(scores, tile);
      add_values(sums, weights, tile - 1);
      your_turn(tile + 1 == tiles);
      products_wait<1>(scores);
      shared_.keys.release(tile);
      weigh(scores, shrink, tile);
      // What waits for a barrier is not moved up by the compiler: the weights are made while the products run.
      if (tile + 1 < tiles) shared_.keys.wait_full(tile + 1);
      products_wait<0>(sums);
      shared_.values.release(tile - 1);
      pack(scores, weights);
      if (__any_sync(0xffffffff, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
        for (int i = 0; i < 64; ++i) sums[i] = __fmul_rn(sums[i], shrink[i / 2 % 2]);
      }
    }
    add_values(sums, weights, tiles - 1);
    products_wait<0>(sums);
    store(sums);
  }

 private:
  // The warpgroups' products in turn, the first one's first.
  __device__ void my_turn() const { named_barrier(1 + warpgroup_, kMultipliers * kWarpgroup); }
  __device__ void your_turn(bool last) const {
    if (!last || warpgroup_ == 0) named_barrier_arrive(2 - warpgroup_, kMultipliers * kWarpgroup);
  }

  __device__ void fetch_queries() const {
    if (warpgroup_ == 1) named_barrier_arrive(1, kMultipliers * kWarpgroup);
    copy_chunk(shared_.q[warpgroup_], op_.q, chunk_, warpgroup_);
    wait_for_copies();
    fence_for_products();
    named_barrier(3 + warpgroup_, kWarpgroup);
  }

  // scores = q k^T of a tile of keys, begun.
  __device__ __forceinline__ void score(float (&scores)[64], int tile) const {
    const uint64_t q = tile_descriptor(shared_address(shared_.q[warpgroup_]));
    const uint64_t k = tile_descriptor(shared_address(shared_.k[tile % ForwardShared::kStages]));
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i)
      multiply_64x128x16<0, 0>(scores, further(q, along(i, kTileBytes)), further(k, along(i, kRowsBytes)), i > 0);
    products_commit();
  }
  // sums += weights v, begun.
  __device__ __forceinline__ void add_values(float (&sums)[64], const uint32_t (&weights)[8][4], int tile) const {
    shared_.values.wait_full(tile);
    const uint64_t v = tile_descriptor(shared_address(shared_.v[tile % ForwardShared::kStages]), kRowsBytes);
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i) multiply_64x128x16<1>(sums, weights[i], further(v, down(i)), 1);
    products_commit();
  }

  // Scores to weights relative to the maximum so far, zero where a row does not see; `shrink`: what was summed before
  // shrinks to the new maximum.
  __device__ __forceinline__ void weigh(float (&scores)[64], float (&shrink)[2], int tile) {
    const int column = thread_ % 4 * 2;
    if ((tile + 1) * kKeys > all_see_) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int seen = chunk_.seen(row_ + 8 * half) - tile * kKeys;
#pragma unroll
        for (int j = 0; j < 16; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (8 * j + column + e >= seen) scores[4 * j + 2 * half + e] = -INFINITY;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          highest[j % 2 * 2 + e] = fmaxf(highest[j % 2 * 2 + e], scores[4 * j + 2 * half + e]);
      float all = fmaxf(fmaxf(highest[0], highest[1]), fmaxf(highest[2], highest[3]));
      all = fmaxf(all, __shfl_xor_sync(0xffffffff, all, 1));
      all = fmaxf(all, __shfl_xor_sync(0xffffffff, all, 2));
      const float maximum = fmaxf(maximum_[half], __fmul_rn(op_.scale, all));
      shrink[half] = exp2_approximate(__fadd_rn(maximum_[half], -maximum));
      maximum_[half] = maximum;
      float added = 0;
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[4 * j + 2 * half + e];
          score = exp2_approximate(__fmaf_rn(op_.scale, score, -maximum));
          added = __fadd_rn(added, score);
        }
      total_[half] = __fmaf_rn(total_[half], shrink[half], added);
    }
  }

  __device__ __forceinline__ void store(const float (&sums)[64]) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& total = total_[half];
      total = __fadd_rn(total, __shfl_xor_sync(0xffffffff, total, 1));
      total = __fadd_rn(total, __shfl_xor_sync(0xffffffff, total, 2));
      factor[half] = __fdiv_rn(1, total);
      const int row = row_ + 8 * half;
      if (op_.log_sum_exp.data && thread_ % 4 == 0 && chunk_.has(row))
        op_.log_sum_exp(chunk_.head(row), chunk_.batch_row(row)) =
            __fmul_rn(__fadd_rn(maximum_[half], log2f(total)), kLn2);
    }
    store_rows(shared_.q[warpgroup_], sums, factor, 3 + warpgroup_, [&](int in_tile) -> bf16* {
      const int row = warpgroup_ * kRows + in_tile;
      return chunk_.has(row) ? &op_.o(chunk_.batch_row(row), chunk_.head(row), 0) : nullptr;
    });
  }

  const Forward& op_;
  const Chunk& chunk_;
  ForwardShared& shared_;
  const int warpgroup_, thread_, row_;  // row_: of the chunk, the thread's first
  const int all_see_;                   // keys that all of the warpgroup's rows see
  // Of the thread's two rows, powers of two; the totals are of its own columns.
  float maximum_[2] = {-INFINITY, -INFINITY}, total_[2] = {0, 0};
};

}  // namespace fulgur::cuda::softmax_hopper

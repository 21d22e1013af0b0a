// Softmax attention forward on Hopper. A thread block has 128 rows of q: the rows of a sequence under all heads of a KV
// head stand on each other, row by row, and are cut into chunks of 128. Two warpgroups multiply, 64 rows each, and take
// turns: one's products run beside the other's exponentials. Keys come in tiles of 128 positions from the sequence's
// first token on, whatever the chunk, and what a row does not see adds exact zeros: its bits depend on nothing else.
#pragma once
#include "base/grid.h"
#include "ops/cuda/softmax_hopper.cuh"

namespace fulgur::cuda::softmax_hopper {

inline constexpr int kKeys = 128;  // positions of a tile of keys
inline constexpr int kStages = 2;  // tiles of keys, and as many of values
inline constexpr int kQueries = kMultipliers * kRows;

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
  uint8_t q[kMultipliers][kRowsBytes];
  uint8_t k[kStages][2 * kRowsBytes];            // 128 rows, twice: columns 0 on, columns 64 on
  uint8_t v[kStages][2 * kRowsBytes];            // 64 rows, twice, each as two tiles of 64 columns
  uint64_t full[2][kStages], empty[2][kStages];  // of keys, of values
};

// The rows of a thread block.
struct Chunk {
  int64_t sequence, kv_head, begin;  // the sequence's first row in the batch
  int position;                      // of that row
  int first, stacked;                // of the stacked rows: the chunk's first; how many a sequence has
  int group;

  __device__ Chunk(const Forward& op, int64_t item)
      : sequence(item / op.kv_heads % op.sequences),
        kv_head(item % op.kv_heads),
        begin(op.row_begin(sequence)),
        position(0),
        first(int(op.chunks - 1 - item / op.kv_heads / op.sequences) * kQueries),
        stacked(int(op.row_begin(sequence + 1) - begin) * op.group),
        group(op.group) {
    if (!empty()) position = int(op.positions(begin));
  }
  __device__ bool empty() const { return first >= stacked; }
  // Of the chunk's row: whether it exists, its row in the sequence's part of the batch, its head.
  __device__ bool has(int row) const { return first + row < stacked; }
  __device__ int sequence_row(int row) const { return (first + row) / group; }
  __device__ int64_t head(int row) const { return kv_head * group + (first + row) % group; }
  // Keys that a row sees; an absent one sees as many as the last.
  __device__ int seen(int row) const { return position + sequence_row(min(row, stacked - 1 - first)) + 1; }
  __device__ int tiles() const { return (seen(kQueries - 1) + kKeys - 1) / kKeys; }
};

// By a warp: every fourth of the tiles k 0, v 0, k 1, v 1, ...
__device__ inline void fetch_keys(const Forward& op, const Chunk& chunk, ForwardShared& shared, int warp) {
  const int lane = int(threadIdx.x) % 32, part = warp % 2;
  const int known = chunk.seen(kQueries - 1);
  for (int tile = warp / 2, tiles = chunk.tiles(); tile < tiles; tile += 2) {
    const int stage = tile % kStages;
    if (tile >= kStages) barrier_wait(shared_address(&shared.empty[part][stage]), uint32_t((tile / kStages - 1) % 2));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t block = 2 * int64_t(tile) + half, left = known - block * kGrid;
      const int present = int(left < 0 ? 0 : left < kRows ? left : kRows);
      const bf16* from = nullptr;
      int64_t stride = 0;
      if (!op.pages.data) {
        const View<const bf16, 3>& rows = part == 0 ? op.k : op.v;
        from = &rows(chunk.begin + block * kGrid, chunk.kv_head, 0), stride = rows.stride[0];
      } else if (present > 0) {
        from = &op.pages(op.table(chunk.sequence, block), part, chunk.kv_head, 0, 0), stride = op.pages.stride[3];
      }
      uint8_t* const to = part == 0 ? shared.k[stage] + half * kTileBytes : shared.v[stage] + half * kRowsBytes;
      copy_rows<32>(to, part == 0 ? kRowsBytes : kTileBytes, lane, present, from, stride);
    }
    hand_over(shared_address(&shared.full[part][stage]));
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
    wait_for_keys(0);
    my_turn();
    score(scores, 0);
    your_turn(tiles == 1);
    products_wait<0>();
    give_back(empty(0, 0));
    float shrink[2];
    weigh(scores, shrink, 0);
    pack(scores, weights);
    if (tiles > 1) wait_for_keys(1);
    for (int tile = 1; tile < tiles; ++tile) {
      my_turn();
      score(scores, tile);
      add_values(sums, weights, tile - 1);
      your_turn(tile + 1 == tiles);
      products_wait<1>();
      give_back(empty(0, tile));
      weigh(scores, shrink, tile);
      // What waits for a barrier is not moved up by the compiler: the weights are made while the products run.
      if (tile + 1 < tiles) wait_for_keys(tile + 1);
      products_wait<0>();
      give_back(empty(1, tile - 1));
      pack(scores, weights);
      if (__any_sync(0xffffffff, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
        for (int i = 0; i < 64; ++i) sums[i] = __fmul_rn(sums[i], shrink[i / 2 % 2]);
      }
    }
    add_values(sums, weights, tiles - 1);
    products_wait<0>();
    store(sums);
  }

 private:
  __device__ uint32_t full(int part, int tile) const { return shared_address(&shared_.full[part][tile % kStages]); }
  __device__ uint32_t empty(int part, int tile) const { return shared_address(&shared_.empty[part][tile % kStages]); }
  // The warpgroups' products in turn, the first one's first.
  __device__ void my_turn() const { named_barrier(1 + warpgroup_, kMultipliers * kWarpgroup); }
  __device__ void your_turn(bool last) const {
    if (!last || warpgroup_ == 0) named_barrier_arrive(2 - warpgroup_, kMultipliers * kWarpgroup);
  }

  __device__ void fetch_queries() const {
    if (warpgroup_ == 1) named_barrier_arrive(1, kMultipliers * kWarpgroup);
    const int piece = thread_ % kPieces;
#pragma unroll 2
    for (int row = thread_ / kPieces; row < kRows; row += kWarpgroup / kPieces) {
      const int from = min(warpgroup_ * kRows + row, chunk_.stacked - 1 - chunk_.first);
      copy_async(shared_.q[warpgroup_] + piece / 8 * kTileBytes + tile_offset(row, piece % 8 * 8),
                 &op_.q(chunk_.begin + chunk_.sequence_row(from), chunk_.head(from), piece * 8), true);
    }
    wait_for_copies();
    fence_for_products();
    named_barrier(3 + warpgroup_, kWarpgroup);
  }

  __device__ void wait_for_keys(int tile) const { barrier_wait(full(0, tile), uint32_t(tile / kStages % 2)); }

  // scores = q k^T of a tile of keys, begun.
  __device__ __forceinline__ void score(float (&scores)[64], int tile) const {
    const uint64_t q = tile_descriptor(shared_address(shared_.q[warpgroup_]));
    const uint64_t k = tile_descriptor(shared_address(shared_.k[tile % kStages]));
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i)
      multiply_64x128x16<0, 0>(scores, further(q, along(i, kTileBytes)), further(k, along(i, kRowsBytes)), i > 0);
    products_commit();
  }
  // sums += weights v, begun.
  __device__ __forceinline__ void add_values(float (&sums)[64], const uint32_t (&weights)[8][4], int tile) const {
    barrier_wait(full(1, tile), uint32_t(tile / kStages % 2));
    const uint64_t v = tile_descriptor(shared_address(shared_.v[tile % kStages]));
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i)
      multiply_64x128x16<1>(sums, weights[i], further(v, i / 4 * kRowsBytes + down(i % 4)), 1);
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
  __device__ __forceinline__ static void pack(const float (&scores)[64], uint32_t (&weights)[8][4]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) weights[i / 4][i % 4] = bf16_pair(scores[2 * i], scores[2 * i + 1]);
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
        op_.log_sum_exp(chunk_.head(row), chunk_.begin + chunk_.sequence_row(row)) =
            __fmul_rn(__fadd_rn(maximum_[half], log2f(total)), kLn2);
    }
    store_rows(shared_.q[warpgroup_], sums, factor, [&](int in_tile) -> bf16* {
      const int row = warpgroup_ * kRows + in_tile;
      return chunk_.has(row) ? &op_.o(chunk_.begin + chunk_.sequence_row(row), chunk_.head(row), 0) : nullptr;
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

// The multiplying warpgroups of lightning attention on Hopper (ops/cuda/lightning_hopper.cuh): one computes o, the
// other carries S forward and copies it for the first.
#pragma once
#include "ops/cuda/lightning_hopper.cuh"

namespace fulgur::cuda::hopper {

// Sixteen steps of a product: along a tile's rows and on to the next tile, or down its rows.
__device__ inline uint64_t along(int i) { return uint64_t((i / 4 * kTileBytes + i % 4 * 32) >> 4); }
__device__ inline uint64_t down(int i) { return uint64_t(i * 16 * kTileRowBytes >> 4); }

// Half of the columns of S, in a warpgroup's registers. A product's thread holds columns 8 j + 2 (t % 4) + {0, 1} of
// the tiles: they stand for columns 32 (j / 4) + 8 (t % 4) + 2 (j % 4) + {0, 1} of v, S and o, eight neighbours twice.
class StateSum {
 public:
  __device__ explicit StateSum(int thread) : row_(thread / 32 * 16 + thread % 32 / 4), quarter_(thread % 4) {}

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 32; ++i) sum_[0][i] = sum_[1][i] = 0;
  }
  // Of f32 [128, 128], from this half's first column on.
  __device__ void load(const float* state) {
    for_pieces([&](float* sum, int row, int column) {
      const float4 piece = *reinterpret_cast<const float4*>(state + row * kHeadSize + column);
      sum[0] = piece.x, sum[1] = piece.y, sum[4] = piece.z, sum[5] = piece.w;
    });
  }
  __device__ void store(float* state) {
    for_pieces([&](const float* sum, int row, int column) {
      *reinterpret_cast<float4*>(state + row * kHeadSize + column) = make_float4(sum[0], sum[1], sum[4], sum[5]);
    });
  }

  // S = fade S + k^T aged.
  __device__ void add_block(float fade, uint64_t k, uint64_t aged) {
#pragma unroll
    for (int i = 0; i < 32; ++i) sum_[0][i] *= fade, sum_[1][i] *= fade;
    settle(sum_[0]), settle(sum_[1]);
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      multiply_64x64x16<1, 1>(sum_[0], k + down(i), aged + down(i), 1);
      multiply_64x64x16<1, 1>(sum_[1], k + (kTileBytes >> 4) + down(i), aged + down(i), 1);
    }
    products_commit();
    products_wait<0>();
    settle(sum_[0]), settle(sum_[1]);
  }

  // As it enters a product.
  __device__ void copy(uint8_t (&tiles)[2][kTileBytes]) const {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 32; i += 2)
        *reinterpret_cast<uint32_t*>(tiles[t] + tile_offset(row_ + i / 2 % 2 * 8, i / 4 * 8 + quarter_ * 2)) =
            bf16_pair(sum_[t][i], sum_[t][i + 1]);
    fence_for_products();
  }

 private:
  // body(sum, row, column) for four columns, which are sum[0], sum[1], sum[4], sum[5].
  template <class Body>
  __device__ void for_pieces(const Body& body) {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 32; i += 2)
        if (i / 4 % 2 == 0)
          body(&sum_[t][i], t * 64 + row_ + i / 2 % 2 * 8, i / 16 * 32 + quarter_ * 8 + i / 4 % 4 * 2);
  }

  const int row_, quarter_;
  float sum_[2][32];  // 64 of its rows each
};

// Whether S differs from zero before a block: then there is a copy of it.
__device__ inline bool has_state(const Operands& p, const Cursor& at) { return at.block > 0 || p.slots; }

class StateKeeper {
 public:
  __device__ StateKeeper(const Operands& p, Shared& shared, const Barriers& barriers, int half, int thread)
      : p_(p), shared_(shared), barriers_(barriers), half_(half), sum_(thread) {}

  __device__ void run() {
    Ring<kStages> stage;
    for (Cursor at(p_); !at.done(); at.next(), stage.next()) {
      if (at.block == 0) begin(at);
      const Stage& tiles = shared_.stage[stage.slot];
      barrier_wait_for_copies(barriers_.full + 8 * stage.slot, stage.parity);
      const bool closes = at.present() == kGrid && (p_.slots || !at.last());
      if (closes)
        sum_.add_block(fade_, tile_descriptor(shared_address(tiles.k)), tile_descriptor(shared_address(tiles.aged)));
      barriers_.arrive_empty(stage.slot, 0);
      if (!at.last()) copy();
      else if (p_.slots && (closes || at.block > 0)) sum_.store(slot_state(at.walk));
    }
  }

 private:
  __device__ void begin(const Cursor& at) {
    fade_ = lambda(p_.decay[at.walk.head], kGrid);
    if (p_.slots) sum_.load(slot_state(at.walk)), copy();
    else sum_.clear();
  }
  __device__ void copy() {
    barrier_wait(barriers_.read + 8 * next_.slot, next_.parity ^ 1);
    sum_.copy(shared_.state[next_.slot]);
    arrive_warp(barriers_.copied + 8 * next_.slot);
    next_.next();
  }
  __device__ float* slot_state(const Walk& walk) const {
    return p_.state + walk.slot * p_.state_slot + walk.head * p_.state_head + half_ * kHalf;
  }

  const Operands& p_;
  Shared& shared_;
  const Barriers& barriers_;
  const int half_;
  StateSum sum_;
  Ring<kCopies> next_;
  float fade_ = 0;
};

class RowsMaker {
 public:
  __device__ RowsMaker(const Operands& p, Shared& shared, const Barriers& barriers, int half, int thread)
      : p_(p),
        shared_(shared),
        barriers_(barriers),
        half_(half),
        row_(thread / 32 * 16 + thread % 32 / 4),
        quarter_(thread % 4) {}

  __device__ void run() {
    Ring<kStages> stage;
    for (Cursor at(p_); !at.done(); at.next(), stage.next()) {
      if (at.block == 0) begin(at.walk);
      block(at, stage);
    }
  }

 private:
  __device__ void begin(const Walk& walk) {
    const float decay = p_.decay[walk.head];
    above_ = lambda(decay, row_ + 1), below_ = lambda(decay, row_ + 9);
#pragma unroll
    for (int i = 0; i < 18; ++i) {
      const int n = row_ + 8 - i / 2 * 8 - quarter_ * 2 - i % 2;
      age_[i / 2][i % 2] = n < 0 ? 0 : lambda(decay, n);
    }
  }

  __device__ void block(const Cursor& at, const Ring<kStages>& stage) {
    const Stage& tiles = shared_.stage[stage.slot];
    const uint64_t q = tile_descriptor(shared_address(tiles.q)), k = tile_descriptor(shared_address(tiles.k));
    const uint64_t v = tile_descriptor(shared_address(tiles.v));
    const bool has_s = has_state(p_, at);
    float scores[32], o[32];
    uint32_t weights[4][4];
    barrier_wait_for_copies(barriers_.full + 8 * stage.slot, stage.parity);
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 0>(scores, q + along(i), k + along(i), i > 0);
    products_commit();
    if (has_s) {
      const uint64_t s = tile_descriptor(shared_address(shared_.state[copy_.slot]));
      barrier_wait(barriers_.copied + 8 * copy_.slot, copy_.parity);
      products_begin();
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 1>(o, q + along(i), s + down(i), i > 0);
      products_commit();
      products_wait<1>();
    } else {
#pragma unroll
      for (int i = 0; i < 32; ++i) o[i] = 0;
      products_wait<0>();
    }
    settle(scores);
    weigh(scores, weights);
    products_wait<0>();
    settle(o);
    if (has_s) arrive_warp(barriers_.read + 8 * copy_.slot), copy_.next();
#pragma unroll
    for (int j = 0; j < 32; j += 4) o[j] *= above_, o[j + 1] *= above_, o[j + 2] *= below_, o[j + 3] *= below_;
    settle(o);
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_64x64x16<1>(o, weights[i], v + down(i), 1);
    products_commit();
    products_wait<0>();
    settle(o);
    if (p_.squares) sum_squares(o, at, stage.slot);
    barriers_.arrive_empty(stage.slot, p_.squares && half_ == 0 ? 16 * int(sizeof(float)) : 0);
    store(o, at);
  }

  // Scores times lambda_(i - j) up to the diagonal, as they enter the product with v.
  __device__ void weigh(const float (&scores)[32], uint32_t (&weights)[4][4]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        weights[j / 2][j % 2 * 2 + r] =
            bf16_pair(scores[4 * j + 2 * r] * age_[j + 1 - r][0], scores[4 * j + 2 * r + 1] * age_[j + 1 - r][1]);
  }

  __device__ static bool is_new(const Cursor& at, int row) { return row >= at.held() && row < at.present(); }

  __device__ void sum_squares(const float (&o)[32], const Cursor& at, int slot) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + 8 * r;
      float sum = 0;
#pragma unroll
      for (int j = 2 * r; j < 32; j += 4) sum = fmaf(o[j + 1], o[j + 1], fmaf(o[j], o[j], sum));
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      if (quarter_ != 0) continue;
      float* const here = &shared_.squares[slot][half_][row];
      if (half_ == 1) {
        store_there(shared_address(here) + barriers_.there, sum, barriers_.empty + 8 * slot + barriers_.there);
        continue;
      }
      *here = sum;
      shared_.squares_at[slot][row] =
          is_new(at, row) ? p_.squares + at.walk.head * p_.squares_head + at.first_row() + row : nullptr;
    }
  }

  __device__ void store(const float (&o)[32], const Cursor& at) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + 8 * r;
      if (!is_new(at, row)) continue;
      bf16* const to = p_.o + int64_t(at.first_row() + row) * p_.o_row + at.walk.head * p_.o_head + half_ * kHalf;
      const auto pair = [&](int j) { return bf16_pair(o[4 * j + 2 * r] + 0.0F, o[4 * j + 2 * r + 1] + 0.0F); };
#pragma unroll
      for (int j = 0; j < 8; j += 4) put(to + j * 8 + quarter_ * 8, {pair(j), pair(j + 1), pair(j + 2), pair(j + 3)});
    }
  }

  const Operands& p_;
  Shared& shared_;
  const Barriers& barriers_;
  const int half_, row_, quarter_;
  Ring<kCopies> copy_;
  float above_ = 0, below_ = 0;  // lambda_(i + 1) of the thread's two rows
  float age_[9][2];              // lambda_(i - j) of score 4 j + 2 r + c: [j + 1 - r][c]
};

}  // namespace fulgur::cuda::hopper

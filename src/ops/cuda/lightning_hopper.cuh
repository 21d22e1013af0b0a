// Lightning attention forward on Hopper: bf16, heads of 128. Two thread blocks a head, each with half of the value
// columns, walk the sequence's blocks of 64 rows. One warpgroup multiplies, with S in its registers; two load the next
// block, apply SiLU and the decay, and lay out the tiles that the tensor cores read.
#pragma once
#include "base/grid.h"
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kHeadSize = 128, kHalf = 64;
inline constexpr int kMultipliers = 128, kLoaders = 256;  // threads

struct Operands {
  bf16* o;
  const bf16* qkv;
  const float* decay;
  const int32_t* row_begin;
  const int64_t* positions;
  const int32_t* slots;  // null: nothing is remembered
  float* state;
  bf16* tail;
  float* squares;  // zero before; null: not wanted
  int64_t heads;
  // Elements between rows, heads, parts and slots.
  int64_t o_row, o_head, qkv_row, qkv_head, qkv_part, state_slot, state_head, tail_slot, tail_head, squares_head;
};

struct alignas(1024) Stage {
  uint8_t q[2 * kTileBytes], k[2 * kTileBytes], aged[2 * kTileBytes], v[kTileBytes];
};
struct Shared {
  Stage stage[2];
  uint8_t state[2 * kTileBytes];
  float power[kGrid + 4];  // lambda_n
  uint64_t full[2], empty[2];
};

// One sequence: batch rows, how many rows of its first block the tail holds, and its blocks.
struct Sequence {
  int64_t begin, end, blocks;
  int held, slot;
  __device__ Sequence(const Operands& p, int64_t number)
      : begin(p.row_begin[number]),
        end(p.row_begin[number + 1]),
        blocks(0),
        held(p.slots && end > begin ? int(p.positions[begin] % kGrid) : 0),
        slot(p.slots ? p.slots[number] : 0) {
    if (end > begin) blocks = (held + end - begin + kGrid - 1) / kGrid;
  }
  // Rows of a block that are there, those of the tail among them.
  __device__ int present(int64_t block) const { return int(min(held + end - begin - block * kGrid, int64_t(kGrid))); }
  __device__ int held_in(int64_t block) const { return block == 0 ? held : 0; }
  __device__ int64_t first_row(int64_t block) const { return begin - held + block * kGrid; }
};

// x / (1 + exp(-x)) as half x (1 + tanh(half x)): one instruction of the special function unit.
__device__ inline float silu(float x) {
  const float half = 0.5F * x;
  return fmaf(half, tanh_approximate(half), half);
}
// f of each of eight numbers.
template <class Function>
__device__ inline uint4 mapped(uint4 x, const Function& f) {
  const auto both = [&](uint32_t pair) {
    return bf16_pair(f(__uint_as_float(pair << 16)), f(__uint_as_float(pair & 0xffff0000)));
  };
  return {both(x.x), both(x.y), both(x.z), both(x.w)};
}
__device__ inline uint4 activated(uint4 x) {
  return mapped(x, [](float v) { return silu(v); });
}

// What one loader thread carries of a block: pieces of eight numbers.
struct Carried {
  uint4 q[4], k[4], v[2];
};

class Loader {
 public:
  __device__ Loader(const Operands& p, const Sequence& s, int64_t head, int half, int thread)
      : p_(p),
        s_(s),
        head_(head),
        half_(half),
        piece_(thread % 16),
        row_(thread / 16),
        v_piece_(thread % 8),
        v_row_(thread / 8) {}

  // Rows before the block's new ones come from the tail, those behind are zero.
  __device__ void load(Carried& c, int64_t block) const {
    const int present = s_.present(block), held = s_.held_in(block);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = row_ + 16 * i;
      const bf16* q = batch_row(block, row) + piece_ * 8;
      c.q[i] = row >= held && row < present ? get(q) : uint4{};
      c.k[i] = row < present ? get(row < held ? tail_row(0, row) + piece_ * 8 : q + p_.qkv_part) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = v_row_ + 32 * i, column = half_ * kHalf + v_piece_ * 8;
      const bf16* v = row < held ? tail_row(1, row) : batch_row(block, row) + 2 * p_.qkv_part;
      c.v[i] = row < present ? get(v + column) : uint4{};
    }
  }

  __device__ void lay_out(const Carried& c, Stage& stage, const float* power, int64_t block) const {
    const int held = s_.held_in(block), tile = piece_ / 8 * kTileBytes, column = piece_ % 8 * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = row_ + 16 * i, at = tile + tile_offset(row, column);
      const uint4 k = row < held ? c.k[i] : activated(c.k[i]);
      const float age = power[kGrid - 1 - row];
      put(stage.q + at, activated(c.q[i])), put(stage.k + at, k);
      put(stage.aged + at, mapped(k, [=](float x) { return age * x; }));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = v_row_ + 32 * i;
      put(stage.v + tile_offset(row, v_piece_ * 8), row < held ? c.v[i] : activated(c.v[i]));
    }
  }

  // An open block's new rows to the tail: of k this half's columns of it, as of v.
  __device__ void remember(const Carried& c, int64_t block) const {
    const int present = s_.present(block), held = s_.held_in(block);
    const auto is_new = [=](int row) { return row >= held && row < present; };
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (const int row = row_ + 16 * i; piece_ / 8 == half_ && is_new(row))
        put(tail_row(0, row) + piece_ * 8, activated(c.k[i]));
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (const int row = v_row_ + 32 * i; is_new(row))
        put(tail_row(1, row) + half_ * kHalf + v_piece_ * 8, activated(c.v[i]));
  }

 private:
  __device__ const bf16* batch_row(int64_t block, int row) const {
    return p_.qkv + (s_.first_row(block) + row) * p_.qkv_row + head_ * p_.qkv_head;
  }
  __device__ bf16* tail_row(int part, int row) const {
    return p_.tail + s_.slot * p_.tail_slot + head_ * p_.tail_head + (part * kGrid + row) * kHeadSize;
  }
  __device__ static uint4 get(const bf16* from) { return *reinterpret_cast<const uint4*>(from); }
  template <class T>
  __device__ static void put(T* to, uint4 piece) {
    *reinterpret_cast<uint4*>(to) = piece;
  }

  const Operands& p_;
  const Sequence& s_;
  const int64_t head_;
  const int half_, piece_, row_, v_piece_, v_row_;
};

class Multiplier {
 public:
  __device__ Multiplier(const Operands& p, const Sequence& s, Shared& shared, int64_t head, int half, int thread)
      : p_(p),
        s_(s),
        shared_(shared),
        head_(head),
        half_(half),
        row_(thread / 32 * 16 + thread % 32 / 4),
        pair_(thread % 4 * 2),
        above_(shared.power[row_ + 1]),
        below_(shared.power[row_ + 9]),
        known_(p.slots != nullptr) {
    for_state([&](int t, int i, float* at) { sum_[t][i] = known_ ? at[0] : 0, sum_[t][i + 1] = known_ ? at[1] : 0; });
    if (known_) copy_state();
  }

  // o of a block's rows, and S after it where it is full.
  __device__ void block(int64_t block, uint32_t empty) {
    const Stage& stage = shared_.stage[block % 2];
    const uint64_t q = tile_descriptor(shared_address(stage.q)), k = tile_descriptor(shared_address(stage.k));
    const uint64_t aged = tile_descriptor(shared_address(stage.aged)), v = tile_descriptor(shared_address(stage.v));
    const bool closes = s_.present(block) == kGrid;
    float scores[32], o[32];
    uint32_t weights[4][4];
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 0>(scores, q + along(i), k + along(i), i > 0);
    products_commit();
    if (known_) {
      const uint64_t state = tile_descriptor(shared_address(shared_.state));
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 1>(o, q + along(i), state + down(i), i > 0);
      products_commit();
      products_wait<1>();
    } else {
#pragma unroll
      for (int i = 0; i < 32; ++i) o[i] = 0;
      products_wait<0>();
    }
    weigh(scores, weights);
    products_wait<0>();
#pragma unroll
    for (int j = 0; j < 32; j += 4) o[j] *= above_, o[j + 1] *= above_, o[j + 2] *= below_, o[j + 3] *= below_;
    const float fade = closes ? shared_.power[kGrid] : 1;
#pragma unroll
    for (int i = 0; i < 32; ++i) sum_[0][i] *= fade, sum_[1][i] *= fade;
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_64x64x16<1>(o, weights[i], v + down(i), 1);
    products_commit();
    if (closes) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        multiply_64x64x16<1, 1>(sum_[0], aged + down(i), v + down(i), 1);
        multiply_64x64x16<1, 1>(sum_[1], aged + (kTileBytes >> 4) + down(i), v + down(i), 1);
      }
      products_commit();
      products_wait<1>();
    } else {
      products_wait<0>();
    }
    store(o, block);
    products_wait<0>();
    barrier_arrive(empty);
    known_ |= closes;
    if (closes && block + 1 < s_.blocks) copy_state();
  }

  __device__ void leave() {
    if (p_.slots) for_state([&](int t, int i, float* at) { at[0] = sum_[t][i], at[1] = sum_[t][i + 1]; });
  }

 private:
  // Sixteen steps of k: along a tile's rows and on to the next tile, or down its rows.
  __device__ static uint64_t along(int i) { return uint64_t((i / 4 * kTileBytes + i % 4 * 32) >> 4); }
  __device__ static uint64_t down(int i) { return uint64_t(i * 16 * kTileRowBytes >> 4); }

  // body(t, i, at) for the pairs sum_[t][i], sum_[t][i + 1] and where they are stored.
  template <class Body>
  __device__ void for_state(const Body& body) const {
    float* const state = p_.state + s_.slot * p_.state_slot + head_ * p_.state_head + half_ * kHalf + pair_;
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 32; i += 2) body(t, i, state + (t * 64 + row_ + i / 2 % 2 * 8) * kHeadSize + i / 4 * 8);
  }

  // Scores times lambda_(i - j) up to the diagonal, as they enter the product with v.
  __device__ void weigh(const float (&scores)[32], uint32_t (&weights)[4][4]) const {
    const auto weighed = [&](float score, int row, int column) {
      return column <= row ? score * shared_.power[row - column] : 0.0F;
    };
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = 8 * j + pair_;
#pragma unroll
      for (int r = 0; r < 2; ++r)
        weights[j / 2][j % 2 * 2 + r] = bf16_pair(weighed(scores[4 * j + 2 * r], row_ + 8 * r, column),
                                                  weighed(scores[4 * j + 2 * r + 1], row_ + 8 * r, column + 1));
    }
  }

  __device__ void store(const float (&o)[32], int64_t block) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + 8 * r;
      float squares = 0;
#pragma unroll
      for (int j = 2 * r; j < 32; j += 4) squares += o[j] * o[j] + o[j + 1] * o[j + 1];
      squares += __shfl_xor_sync(0xffffffff, squares, 1);
      squares += __shfl_xor_sync(0xffffffff, squares, 2);
      if (row < s_.held_in(block) || row >= s_.present(block)) continue;
      const int64_t at = s_.first_row(block) + row;
      auto* to = reinterpret_cast<uint32_t*>(p_.o + at * p_.o_row + head_ * p_.o_head + half_ * kHalf + pair_);
#pragma unroll
      for (int j = 0; j < 8; ++j) to[4 * j] = bf16_pair(o[4 * j + 2 * r] + 0.0F, o[4 * j + 2 * r + 1] + 0.0F);
      // Two addends and a zero, one from each half: their order does not matter.
      if (p_.squares && pair_ == 0) atomicAdd(p_.squares + head_ * p_.squares_head + at, squares);
    }
  }

  // S as it enters the next block's product.
  __device__ void copy_state() {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 32; i += 2)
        *reinterpret_cast<uint32_t*>(shared_.state + t * kTileBytes +
                                     tile_offset(row_ + i / 2 % 2 * 8, i / 4 * 8 + pair_)) =
            bf16_pair(sum_[t][i], sum_[t][i + 1]);
    fence_for_products();
    named_barrier(1, kMultipliers);
  }

  const Operands& p_;
  const Sequence& s_;
  Shared& shared_;
  const int64_t head_;
  const int half_, row_, pair_;
  const float above_, below_;  // lambda_(i + 1) of the thread's two rows
  bool known_;                 // S may differ from zero
  float sum_[2][32];           // S, 64 of its rows each
};

}  // namespace fulgur::cuda::hopper

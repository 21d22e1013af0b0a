// Loading of lightning attention's backward on Hopper. One warpgroup copies a block's rows to a stage of shared memory,
// and the gradients from there back to memory; one applies SiLU there. Copies hold up the threads that ask for them, so
// that neither could do both.
//
// Stage: q, d_o, raw_k, raw_v: 64 rows each as they come from memory; k(), v(): where k and v lie after SiLU, maybe in
// place. SiLU's slopes as f16 take the place of what the sweep finds the gradients of: of q (kOfQueries), which then
// is not needed itself, or of k and v as they came; and the multipliers put gradients in place of slopes.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/lightning_hopper_backward.cuh"

namespace fulgur::cuda::hopper_backward {

// x / (1 + exp(-x)) and its slope of a pair of numbers. With half = x / 2 and t = tanh(half), one instruction of the
// special function unit, they are half (1 + t) and (1 + t + half (1 - t^2)) / 2.
struct SiluPair {
  float half[2], t[2];
  __device__ explicit SiluPair(uint32_t pair) : half{0.5F * first_of(pair), 0.5F * second_of(pair)} {
    t[0] = tanh_approximate(half[0]), t[1] = tanh_approximate(half[1]);
  }
  __device__ float value(int i) const { return fmaf(half[i], t[i], half[i]); }
  __device__ float slope(int i) const { return fmaf(0.5F, fmaf(half[i], fmaf(-t[i], t[i], 1.0F), t[i]), 0.5F); }
  __device__ uint32_t values() const { return bf16_pair(value(0), value(1)); }
  __device__ uint32_t slopes() const { return f16_pair(slope(0), slope(1)); }
};

// The pieces of 16 bytes of 64 rows of 128 columns that one thread of a warpgroup moves.
struct Pieces {
  static constexpr int kRowsAtOnce = kWarpgroup / 16, kEach = kBlock / kRowsAtOnce;
  const int row, column;  // of the first; the others lie kRowsAtOnce rows apart
  __device__ explicit Pieces(int thread) : row(thread / 16), column(thread % 16 * 8) {}
  __device__ int offset(int i) const { return rows_offset(row, column) + i * kRowsAtOnce * kTileRowBytes; }
  __device__ uint4& at(uint8_t* tiles, int i) const { return *reinterpret_cast<uint4*>(tiles + offset(i)); }

  // Begins to copy rows [held, present) of a tensor and zeros behind them; the rows before `begin` are left alone.
  __device__ void fetch(uint8_t* tiles, const bf16* from, int64_t stride, int begin, int held, int present) const {
    from += row * stride + column;
#pragma unroll 2
    for (int i = 0; i < kEach; ++i, from += kRowsAtOnce * stride)
      if (const int r = row + i * kRowsAtOnce; r >= begin)
        copy_async(tiles + offset(i), from, r >= held && r < present);
  }

  // SiLU of rows to `values`, and its slopes in place; rows before `held` stay as they are.
  template <bool kValues, bool kSlopes>
  __device__ void pass_rows(uint8_t* values, uint8_t* raw, int held) const {
    constexpr int kAtOnce = 4;  // pieces that are loaded before the first is stored
#pragma unroll
    for (int first = 0; first < Pieces::kEach; first += kAtOnce) {
      uint4 pieces[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) pieces[i] = at(raw, first + i);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        // Bits, not a branch for every pair.
        const uint32_t stays = row + (first + i) * Pieces::kRowsAtOnce < held ? ~0U : 0;
        const uint32_t pairs[] = {pieces[i].x, pieces[i].y, pieces[i].z, pieces[i].w};
        uint32_t value[4], slope[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const SiluPair silu(pairs[n]);
          value[n] = (pairs[n] & stays) | (silu.values() & ~stays), slope[n] = silu.slopes();
        }
        if (kSlopes) at(raw, first + i) = {slope[0], slope[1], slope[2], slope[3]};
        if (kValues) at(values, first + i) = {value[0], value[1], value[2], value[3]};
      }
    }
  }
};

// Begins to copy a block's rows of q (part 0), k or v. Those before its new ones come from the tail, of q they are
// zero; those behind are zero.
__device__ inline void fetch_part(const Operands& p, const Walk& walk, const Pieces& pieces, uint8_t* tiles, int part,
                                  int block) {
  const int held = walk.held_in(block), begin = part == 0 ? 0 : held;
  pieces.fetch(tiles, p.qkv + int64_t(walk.first_row(block)) * p.qkv_row + walk.head * p.qkv_head + part * p.qkv_part,
               p.qkv_row, begin, held, walk.present(block));
  const bf16* const tail = p.tail + walk.slot * p.tail_slot + walk.head * p.tail_head + (part - 1) * kBlock * kHeadSize;
  for (int i = 0; pieces.row + i * Pieces::kRowsAtOnce < begin; ++i)
    copy_async(tiles + pieces.offset(i), tail + (pieces.row + i * Pieces::kRowsAtOnce) * kHeadSize + pieces.column,
               true);
}
__device__ inline void fetch_d_o(const Operands& p, const Walk& walk, const Pieces& pieces, uint8_t* tiles, int block) {
  pieces.fetch(tiles, p.d_o + int64_t(walk.first_row(block)) * p.d_o_row + walk.head * p.d_o_head, p.d_o_row, 0,
               walk.held_in(block), walk.present(block));
}

template <class Stage>
class Copier {
 public:
  __device__ Copier(const Operands& p, const Walk& walk, int thread) : p_(p), walk_(walk), pieces_(thread) {}

  __device__ void fetch(Stage& stage, int block) const {
    fetch_part(p_, walk_, pieces_, stage.q, 0, block), fetch_d_o(p_, walk_, pieces_, stage.d_o, block);
    fetch_part(p_, walk_, pieces_, stage.raw_k, 1, block), fetch_part(p_, walk_, pieces_, stage.raw_v, 2, block);
  }

  // The gradients of the rows that are the batch's: the pieces that the thread will fetch anew.
  __device__ void store(Stage& stage, int block) const {
    if (Stage::kOfQueries) {
      store_rows(stage.q, 0, block);
    } else {
      store_rows(stage.raw_k, 1, block), store_rows(stage.raw_v, 2, block);
    }
  }

 private:
  // part 0, 1, 2: of q, k, v. One after the other: many at once hold up the multipliers' ways to shared memory.
  __device__ void store_rows(uint8_t* tiles, int part, int block) const {
    const int held = walk_.held_in(block) - pieces_.row, present = walk_.present(block) - pieces_.row;
    bf16* to = p_.dqkv + (int64_t(walk_.first_row(block)) + pieces_.row) * p_.dqkv_row + walk_.head * p_.dqkv_head +
               part * p_.dqkv_part + pieces_.column;
#pragma unroll 2
    for (int i = 0; i < Pieces::kEach; ++i, to += Pieces::kRowsAtOnce * p_.dqkv_row)
      if (const int row = i * Pieces::kRowsAtOnce; row >= held && row < present)
        *reinterpret_cast<uint4*>(to) = pieces_.at(tiles, i);
  }

  const Operands& p_;
  const Walk& walk_;
  const Pieces pieces_;
};

template <class Stage>
class Activator {
 public:
  __device__ Activator(const Walk& walk, int thread) : walk_(walk), pieces_(thread) {}

  // SiLU of a block that has arrived, and its slopes; rows of the tail have passed it.
  __device__ void activate(Stage& stage, int block) const {
    const int held = walk_.held_in(block);
    constexpr bool kOfQueries = Stage::kOfQueries;
    pieces_.pass_rows<!kOfQueries, kOfQueries>(stage.q, stage.q, 0);
    pieces_.pass_rows<true, !kOfQueries>(stage.k(), stage.raw_k, held);
    pieces_.pass_rows<true, !kOfQueries>(stage.v(), stage.raw_v, held);
  }

 private:
  const Walk& walk_;
  const Pieces pieces_;
};

}  // namespace fulgur::cuda::hopper_backward

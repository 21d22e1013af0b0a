// Loading of lightning attention's backward on Hopper: a block's rows to a stage of shared memory, SiLU, and the
// gradients from there back to memory.
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

// Stage: q, d_o, raw_k, raw_v: 64 rows each as they come from memory; k(), v(): where k and v lie after SiLU, maybe in
// place. SiLU's slopes as f16 take the place of what the sweep finds the gradients of: of q (kOfQueries), which then
// is not needed itself, or of k and v as they came; and the multipliers put gradients in place of slopes.
template <class Stage>
class Loader {
 public:
  __device__ Loader(const Operands& p, const Walk& walk, int thread)
      : p_(p), walk_(walk), column_(thread % 16 * 8), row_(thread / 16), at_(rows_offset(row_, column_)) {}

  // Begins to copy a block's rows. Those before its new ones come from the tail, those behind are zero.
  __device__ void fetch(Stage& stage, int block) const {
    const int64_t first = walk_.first_row(block) + row_;
    const bf16* q = p_.qkv + first * p_.qkv_row + walk_.head * p_.qkv_head + column_;
    const bf16* d_o = p_.d_o + first * p_.d_o_row + walk_.head * p_.d_o_head + column_;
    const int held = walk_.held_in(block) - row_, present = walk_.present(block) - row_;
#pragma unroll
    for (int row = 0; row < kBlock; row += kRowsAtOnce) {
      const int to = at_ + row * kTileRowBytes;
      const bool is_new = row >= held && row < present;
      copy_async(stage.q + to, q, is_new), copy_async(stage.d_o + to, d_o, is_new);
      if (row >= held) {
        copy_async(stage.raw_k + to, q + p_.qkv_part, is_new);
        copy_async(stage.raw_v + to, q + 2 * p_.qkv_part, is_new);
      }
      q += kRowsAtOnce * p_.qkv_row, d_o += kRowsAtOnce * p_.d_o_row;
    }
    if (held > 0) fetch_tail(stage, held);
  }

  // SiLU of the numbers that the thread copied, and its slopes; rows of the tail have passed it.
  __device__ void activate(Stage& stage, int block) const {
    const int held = walk_.held_in(block);
    constexpr bool kOfQueries = Stage::kOfQueries;
    pass_rows<!kOfQueries, kOfQueries>(stage.q, stage.q, 0);
    pass_rows<true, !kOfQueries>(stage.k(), stage.raw_k, held);
    pass_rows<true, !kOfQueries>(stage.v(), stage.raw_v, held);
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
  static constexpr int kRowsAtOnce = kLoaders / 16, kEach = kBlock / kRowsAtOnce;

  __device__ void fetch_tail(Stage& stage, int held) const {
    const bf16* k = p_.tail + walk_.slot * p_.tail_slot + walk_.head * p_.tail_head + row_ * kHeadSize + column_;
    for (int row = 0; row < held; row += kRowsAtOnce, k += kRowsAtOnce * kHeadSize) {
      copy_async(stage.raw_k + at_ + row * kTileRowBytes, k, true);
      copy_async(stage.raw_v + at_ + row * kTileRowBytes, k + kBlock * kHeadSize, true);
    }
  }

  // The thread's pieces of rows to `values`, and their slopes in place; rows before `held` stay as they are. All are
  // loaded before one is stored.
  template <bool kValues, bool kSlopes>
  __device__ void pass_rows(uint8_t* values, uint8_t* raw, int held) const {
    uint4 pieces[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) pieces[i] = at(raw, i);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint32_t stays = row_ + i * kRowsAtOnce < held ? ~0U : 0;  // bits, not a branch for every pair
      uint32_t value[4], slope[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const uint32_t pair = n == 0 ? pieces[i].x : n == 1 ? pieces[i].y : n == 2 ? pieces[i].z : pieces[i].w;
        const SiluPair silu(pair);
        value[n] = (pair & stays) | (silu.values() & ~stays), slope[n] = silu.slopes();
      }
      if (kSlopes) at(raw, i) = {slope[0], slope[1], slope[2], slope[3]};
      if (kValues) at(values, i) = {value[0], value[1], value[2], value[3]};
    }
  }
  // part 0, 1, 2: of q, k, v.
  __device__ void store_rows(uint8_t* tiles, int part, int block) const {
    const int held = walk_.held_in(block) - row_, present = walk_.present(block) - row_;
    bf16* to = p_.dqkv + (int64_t(walk_.first_row(block)) + row_) * p_.dqkv_row + walk_.head * p_.dqkv_head +
               part * p_.dqkv_part + column_;
    uint4 pieces[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) pieces[i] = at(tiles, i);
#pragma unroll
    for (int i = 0; i < kEach; ++i, to += kRowsAtOnce * p_.dqkv_row)
      if (i * kRowsAtOnce >= held && i * kRowsAtOnce < present) *reinterpret_cast<uint4*>(to) = pieces[i];
  }

  __device__ uint4& at(uint8_t* tiles, int i) const {
    return *reinterpret_cast<uint4*>(tiles + at_ + i * kRowsAtOnce * kTileRowBytes);
  }

  const Operands& p_;
  const Walk& walk_;
  const int column_, row_, at_;  // the thread's first piece, and where it lies in tiles
};

}  // namespace fulgur::cuda::hopper_backward

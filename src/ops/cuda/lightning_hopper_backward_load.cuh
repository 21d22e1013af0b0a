// Loading of lightning attention's backward on Hopper: a block's rows to a stage of shared memory, and SiLU.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/lightning_hopper_backward.cuh"

namespace fulgur::cuda::hopper_backward {

// Stage: q, d_o, raw_k, raw_v: 64 rows each as they come from memory; k(), v(): where they lie after SiLU, maybe in
// place; kActivatesQ: whether q passes SiLU too, in place.
template <class Stage>
class Loader {
 public:
  __device__ Loader(const Operands& p, const Walk& walk, int thread)
      : p_(p), walk_(walk), column_(thread % 16 * 8), row_(thread / 16) {}

  // Begins to copy a block's rows. Those before its new ones come from the tail, those behind are zero.
  __device__ void fetch(Stage& stage, int64_t block) const {
    const int held = walk_.held_in(block), present = walk_.present(block);
    const int64_t first = walk_.first_row(block);
    const bf16* const qkv = p_.qkv + first * p_.qkv_row + walk_.head * p_.qkv_head + column_;
    const bf16* const d_o = p_.d_o + first * p_.d_o_row + walk_.head * p_.d_o_head + column_;
    const bf16* const tail = p_.tail + walk_.slot * p_.tail_slot + walk_.head * p_.tail_head + column_;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = row_ + i * kRowsAtOnce, at = rows_offset(row, column_);
      const bool there = row < present, is_new = there && row >= held;
      const bf16* const q = qkv + row * p_.qkv_row;
      copy_async(stage.q + at, is_new ? q : p_.qkv, is_new);
      copy_async(stage.d_o + at, is_new ? d_o + row * p_.d_o_row : p_.d_o, is_new);
      const bf16* const k = row < held ? tail + row * kHeadSize : q + p_.qkv_part;
      const bf16* const v = row < held ? tail + (kBlock + row) * kHeadSize : q + 2 * p_.qkv_part;
      copy_async(stage.raw_k + at, there ? k : p_.qkv, there);
      copy_async(stage.raw_v + at, there ? v : p_.qkv, there);
    }
  }

  // SiLU of the numbers that the thread copied; rows of the tail have passed it.
  __device__ void activate(Stage& stage, int64_t block) const {
    const int held = walk_.held_in(block);
    if (Stage::kActivatesQ) pass_rows(stage.q, stage.q, 0);
    pass_rows(stage.k(), stage.raw_k, held), pass_rows(stage.v(), stage.raw_v, held);
  }

 private:
  static constexpr int kRowsAtOnce = kLoaders / 16, kEach = kBlock / kRowsAtOnce;

  // The thread's pieces of rows from `held` on, those before as they are: all are loaded before one is stored.
  __device__ void pass_rows(uint8_t* to, const uint8_t* from, int held) const {
    uint4 pieces[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      pieces[i] = *reinterpret_cast<const uint4*>(from + rows_offset(row_ + i * kRowsAtOnce, column_));
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = row_ + i * kRowsAtOnce;
      const uint32_t stays = row < held ? ~0U : 0;  // bits, not a branch for every pair
      const auto both = [=](uint32_t pair) {
        return (pair & stays) | (bf16_pair(silu(first_of(pair)), silu(second_of(pair))) & ~stays);
      };
      *reinterpret_cast<uint4*>(to + rows_offset(row, column_)) = {both(pieces[i].x), both(pieces[i].y),
                                                                   both(pieces[i].z), both(pieces[i].w)};
    }
  }

  const Operands& p_;
  const Walk& walk_;
  const int column_, row_;
};

}  // namespace fulgur::cuda::hopper_backward

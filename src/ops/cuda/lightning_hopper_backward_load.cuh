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
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = row_ + i * kRowsAtOnce, at = rows_offset(row, column_);
      pass(stage.k() + at, stage.raw_k + at, row < held);
      pass(stage.v() + at, stage.raw_v + at, row < held);
      if (Stage::kActivatesQ) pass(stage.q + at, stage.q + at, false);
    }
  }

 private:
  static constexpr int kRowsAtOnce = kLoaders / 16, kEach = kBlock / kRowsAtOnce;

  __device__ static void pass(uint8_t* to, const uint8_t* from, bool passed) {
    const uint4 x = *reinterpret_cast<const uint4*>(from);
    const auto both = [=](uint32_t pair) {
      return passed ? pair : bf16_pair(silu(first_of(pair)), silu(second_of(pair)));
    };
    *reinterpret_cast<uint4*>(to) = {both(x.x), both(x.y), both(x.z), both(x.w)};
  }

  const Operands& p_;
  const Walk& walk_;
  const int column_, row_;
};

}  // namespace fulgur::cuda::hopper_backward

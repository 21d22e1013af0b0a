// The loading warpgroups of lightning attention on Hopper (ops/cuda/lightning_hopper.cuh).
#pragma once
#include "ops/cuda/lightning_hopper.cuh"

namespace fulgur::cuda::hopper {

// Pieces of eight columns that a thread carries of a block, two rows each.
struct Carried {
  uint4 q[2], k[2], v[2];
};

// A thread loads piece lane % 8 of rows 8 warp + lane / 8 + {0, 4} of this half's columns. So a warp writes eight rows
// of a tile, which lie end to end, and passes them on by itself.
class Loader {
 public:
  __device__ Loader(const Operands& p, Shared& shared, const Barriers& barriers, int half, int thread)
      : p_(p),
        shared_(shared),
        barriers_(barriers),
        half_(half),
        warp_(thread / 32),
        piece_(thread % 8),
        row_(thread / 32 * 8 + thread % 32 / 8),
        loading_(p) {}

  __device__ void run() {
    Carried now, next, after;
    fetch(now), fetch(next);
    Ring<kStages> at;
    for (Cursor block(p_); !block.done(); block.next(), at.next()) {
      fetch(after);
      if (block.block == 0) begin(block.walk);
      barrier_wait_for_copies(barriers_.empty + 8 * at.slot, at.parity ^ 1);
      store_squares(at.slot);
      lay_out(now, block, shared_.stage[at.slot]);
      pass_on(shared_.stage[at.slot], at.slot);
      now = next, next = after;
    }
    for (int i = 0; i < kStages; ++i, at.next()) {
      barrier_wait_for_copies(barriers_.empty + 8 * at.slot, at.parity ^ 1);
      store_squares(at.slot);
    }
  }

 private:
  // The next block's pieces: rows before its new ones from the tail, zero behind them.
  __device__ void fetch(Carried& c) {
    if (loading_.done()) return;
    const int present = loading_.present(), held = loading_.held();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = row_ + 4 * i;
      const bool there = row < present, kept = row < held;
      const bf16* const from = p_.qkv + int64_t(loading_.first_row() + row) * p_.qkv_row +
                               loading_.walk.head * p_.qkv_head + half_ * kHalf + piece_ * 8;
      const bf16* const tail = tail_row(loading_.walk, row);
      c.q[i] = there && !kept ? get(from) : uint4{};
      c.k[i] = there ? get(kept ? tail : from + p_.qkv_part) : uint4{};
      c.v[i] = there ? get(kept ? tail + kGrid * kHeadSize : from + 2 * p_.qkv_part) : uint4{};
    }
    loading_.next();
  }

  __device__ void begin(const Walk& walk) {
    const float decay = p_.decay[walk.head];
    for (int i = 0; i < 2; ++i) age_[i] = lambda(decay, kGrid - 1 - row_ - 4 * i);
  }

  __device__ void lay_out(const Carried& c, const Cursor& at, Stage& stage) const {
    const int held = at.held(), present = at.present();
    const bool remembered = p_.slots && at.last() && present < kGrid;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = row_ + 4 * i;
      const uint4 k = row < held ? c.k[i] : activated(c.k[i]), v = row < held ? c.v[i] : activated(c.v[i]);
      const float age = age_[i];
      const int place = tile_offset(row, piece_ * 8);
      put(stage.q[half_] + place, activated(c.q[i])), put(stage.k[half_] + place, k);
      put_columns(stage.v, row, v);
      put_columns(stage.aged, row, mapped(v, [=](float x) { return age * x; }));
      if (remembered && row >= held && row < present) {
        bf16* const tail = tail_row(at.walk, row);
        put(tail, k), put(tail + kGrid * kHeadSize, v);
      }
    }
  }

  // Columns of v in the order in which a product's threads hold eight neighbours each: see StateSum.
  __device__ void put_columns(uint8_t* tile, int row, uint4 piece) const {
    const uint32_t words[] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      *reinterpret_cast<uint32_t*>(tile + tile_offset(row, piece_ / 4 * 32 + 8 * i + piece_ % 4 * 2)) = words[i];
  }

  // The warp's rows of q and k go to the other block too.
  __device__ void pass_on(const Stage& stage, int slot) const {
    fence_for_products();
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    constexpr int kBytes = 8 * kTileRowBytes;
    const uint32_t full = barriers_.full + 8 * slot, there = barriers_.there;
    const uint32_t q = shared_address(stage.q[half_]) + warp_ * kBytes;
    const uint32_t k = shared_address(stage.k[half_]) + warp_ * kBytes;
    copy_there(q + there, q, kBytes, full + there);
    copy_there(k + there, k, kBytes, full + there);
    barrier_arrive_expecting(full, 2 * kBytes);
  }

  // Of the rows that the stage held before.
  __device__ void store_squares(int slot) const {
    const int row = warp_ * 8 + piece_;
    if (!p_.squares || half_ != 0 || threadIdx.x % 32 >= 8) return;
    float* const to = shared_.squares_at[slot][row];
    if (to) *to = shared_.squares[slot][0][row] + shared_.squares[slot][1][row];
  }

  __device__ bf16* tail_row(const Walk& walk, int row) const {
    return p_.tail + walk.slot * p_.tail_slot + walk.head * p_.tail_head + row * kHeadSize + half_ * kHalf + piece_ * 8;
  }

  const Operands& p_;
  Shared& shared_;
  const Barriers& barriers_;
  const int half_, warp_, piece_, row_;
  Cursor loading_;
  float age_[2] = {};  // lambda_(63 - row)
};

}  // namespace fulgur::cuda::hopper

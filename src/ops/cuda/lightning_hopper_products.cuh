// The multiplying warpgroups of lightning attention on Hopper (ops/cuda/lightning_hopper.cuh): one computes o, the
// other carries S forward and copies it for the first.
#pragma once
#include "ops/cuda/lightning_hopper_load.cuh"
#include "ops/cuda/lightning_state.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kCopies = 1;

struct alignas(1024) Stage {
  uint8_t q[2][kTileBytes], k[2][kTileBytes], v[kTileBytes], aged[kTileBytes];
};
struct Shared {
  Stage stage[kStages];
  uint8_t state[kCopies][2][kTileBytes];
  uint4 raw[3][kAhead * kRawWords];  // of q, k and v
  Walk walks[kFoundWalks];
  Squares squares[kStages];  // in the cluster's first block
  // Of a stage; of a copy of S.
  uint64_t full[kStages], empty[kStages], copied[kCopies], read[kCopies];
};

// The addresses of a block's barriers.
struct Barriers : StageBarriers {
  uint32_t copied, read;
  __device__ Barriers(Shared& shared, int half)
      : StageBarriers{shared_address(shared.full), shared_address(shared.empty),
                      address_in(uint32_t(1 - half), shared_address(shared.full)) - shared_address(shared.full)},
        copied(shared_address(shared.copied)),
        read(shared_address(shared.read)) {}
  // By one thread: warps that load a stage, and that read it in both blocks; that write a copy, and that read it.
  __device__ void begin() const {
    for (int i = 0; i < kStages; ++i)
      barrier_init(full + 8 * i, 3 * kWarpgroup / 32), barrier_init(empty + 8 * i, 2 * 2 * kWarpgroup / 32);
    for (int i = 0; i < kCopies; ++i)
      barrier_init(copied + 8 * i, kWarpgroup / 32), barrier_init(read + 8 * i, kWarpgroup / 32);
  }
  // Of a warp that has read a stage: both blocks may write it. `sent`: bytes that the other block's warp sends here.
  __device__ void arrive_empty(int slot, int sent) const {
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    if (sent > 0) barrier_arrive_expecting(empty + 8 * slot, sent);
    else barrier_arrive(empty + 8 * slot);
    barrier_arrive_there(empty + 8 * slot + there);
  }
};

class StateKeeper {
 public:
  __device__ StateKeeper(const Operands& p, const Items& items, Shared& shared, const Barriers& barriers, int half,
                         int thread)
      : p_(p), items_(items), shared_(shared), barriers_(barriers), half_(half), sum_(thread) {}

  __device__ void run() {
    Ring<kStages> stage;
    for (Cursor at(items_); !at.done(); at.next(), stage.next()) {
      if (at.block == 0) begin(at);
      const Stage& tiles = shared_.stage[stage.slot];
      barrier_wait_for_copies(barriers_.full + 8 * stage.slot, stage.parity);
      const bool kept = p_.slots && at.walk.last && at.last();
      const bool closes = at.present() == kGrid && (kept || !at.last());
      if (closes)
        sum_.add_block(fade_, tile_descriptor(shared_address(tiles.k)), tile_descriptor(shared_address(tiles.aged)));
      barriers_.arrive_empty(stage.slot, 0);
      if (!at.last()) copy();
      else if (kept && (closes || at.block > 0 || !at.walk.first)) sum_.store(slot_state(at.walk));
    }
  }

 private:
  __device__ void begin(const Cursor& at) {
    fade_ = lambda(at.walk.decay, kGrid);
    if (!at.walk.first) sum_.load(start_of(p_, at.walk.sequence, at.walk.begin, at.walk.head) + half_ * kHalf);
    else if (at.walk.continues) sum_.load(slot_state(at.walk));
    else sum_.clear();
    copy();
  }
  __device__ void copy() {
    barrier_wait(barriers_.read + 8 * next_.slot, next_.parity ^ 1);
    sum_.copy(shared_.state[next_.slot]);
    arrive_warp(barriers_.copied + 8 * next_.slot);
    next_.next();
  }
  __device__ float* slot_state(const Walk& walk) const { return state_of(p_, walk) + half_ * kHalf; }

  const Operands& p_;
  const Items& items_;
  Shared& shared_;
  const Barriers& barriers_;
  const int half_;
  StateSum sum_;
  Ring<kCopies> next_;
  float fade_ = 0;
};

class RowsMaker {
 public:
  __device__ RowsMaker(const Operands& p, const Items& items, Shared& shared, const Barriers& barriers, int half,
                       int thread)
      : p_(p),
        items_(items),
        shared_(shared),
        barriers_(barriers),
        half_(half),
        row_(thread / 32 * 16 + thread % 32 / 4),
        quarter_(thread % 4) {}

  // The scores of the block that comes next are computed while a block's o is stored.
  __device__ void run() {
    Ring<kStages> stage;
    Cursor next(items_);
    if (next.done()) return;
    barrier_wait_for_copies(barriers_.full + 8 * stage.slot, stage.parity);
    ask_for_scores(shared_.stage[stage.slot]);
    products_wait<0>();
    settle(scores_);
    while (!next.done()) {
      const Cursor at = next;
      const int slot = stage.slot;
      if (at.block == 0) begin(at.walk);
      next.next(), stage.next();
      add_products(shared_.stage[slot]);
      if (!next.done()) barrier_wait_for_copies(barriers_.full + 8 * stage.slot, stage.parity);
      ask_for_scores(shared_.stage[stage.slot]);  // of no block behind the last
      products_wait<1>();
      settle(o_);
      if (p_.squares) sum_squares(at, slot);
      barriers_.arrive_empty(slot, p_.squares && half_ == 0 ? 16 * int(sizeof(float)) : 0);
      store(at);
      products_wait<0>();
      settle(scores_);
    }
  }

 private:
  __device__ void begin(const Walk& walk) {
    const float decay = walk.decay;
    above_ = lambda(decay, row_ + 1), below_ = lambda(decay, row_ + 9);
#pragma unroll
    for (int i = 0; i < 18; ++i) {
      const int n = row_ + 8 - i / 2 * 8 - quarter_ * 2 - i % 2;
      age_[i / 2][i % 2] = n < 0 ? 0 : lambda(decay, n);
    }
  }

  __device__ void ask_for_scores(const Stage& tiles) {
    const uint64_t q = tile_descriptor(shared_address(tiles.q)), k = tile_descriptor(shared_address(tiles.k));
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 0>(scores_, q + along(i), k + along(i), i > 0);
    products_commit();
  }

  // Asks for what o adds up to.
  __device__ void add_products(const Stage& tiles) {
    const uint64_t q = tile_descriptor(shared_address(tiles.q)), v = tile_descriptor(shared_address(tiles.v));
    const uint64_t s = tile_descriptor(shared_address(shared_.state[copy_.slot]));
    uint32_t weights[4][4];
    barrier_wait(barriers_.copied + 8 * copy_.slot, copy_.parity);
    products_begin();
#pragma unroll
    for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 1>(o_, q + along(i), s + down(i), i > 0);
    products_commit();
    weigh(weights);
    products_wait<0>();
    settle(o_);
    arrive_warp(barriers_.read + 8 * copy_.slot);
    copy_.next();
#pragma unroll
    for (int j = 0; j < 32; j += 4) o_[j] *= above_, o_[j + 1] *= above_, o_[j + 2] *= below_, o_[j + 3] *= below_;
    settle(o_);
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_64x64x16<1>(o_, weights[i], v + down(i), 1);
    products_commit();
  }

  // Scores times lambda_(i - j) up to the diagonal, as they enter the product with v.
  __device__ void weigh(uint32_t (&weights)[4][4]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        weights[j / 2][j % 2 * 2 + r] =
            bf16_pair(scores_[4 * j + 2 * r] * age_[j + 1 - r][0], scores_[4 * j + 2 * r + 1] * age_[j + 1 - r][1]);
  }

  __device__ static bool is_new(const Cursor& at, int row) { return row >= at.held() && row < at.present(); }

  __device__ void sum_squares(const Cursor& at, int slot) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + 8 * r;
      float sum = 0;
#pragma unroll
      for (int j = 2 * r; j < 32; j += 4) sum = fmaf(o_[j + 1], o_[j + 1], fmaf(o_[j], o_[j], sum));
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      if (quarter_ != 0) continue;
      float* const here = &shared_.squares[slot].sums[half_][row];
      if (half_ == 1) {
        store_there(shared_address(here) + barriers_.there, sum, barriers_.empty + 8 * slot + barriers_.there);
        continue;
      }
      *here = sum;
      shared_.squares[slot].to[row] =
          is_new(at, row) ? p_.squares + at.walk.head * p_.squares_head + at.first_row() + row : nullptr;
    }
  }

  __device__ void store(const Cursor& at) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + 8 * r;
      if (!is_new(at, row)) continue;
      bf16* const to = p_.o + int64_t(at.first_row() + row) * p_.o_row + at.walk.head * p_.o_head + half_ * kHalf;
      const auto pair = [&](int j) { return positive_zeros(bf16_pair(o_[4 * j + 2 * r], o_[4 * j + 2 * r + 1])); };
#pragma unroll
      for (int j = 0; j < 8; j += 4) put(to + j * 8 + quarter_ * 8, {pair(j), pair(j + 1), pair(j + 2), pair(j + 3)});
    }
  }

  const Operands& p_;
  const Items& items_;
  Shared& shared_;
  const Barriers& barriers_;
  const int half_, row_, quarter_;
  Ring<kCopies> copy_;
  float scores_[32], o_[32];
  float above_ = 0, below_ = 0;  // lambda_(i + 1) of the thread's two rows
  float age_[9][2];              // lambda_(i - j) of score 4 j + 2 r + c: [j + 1 - r][c]
};

}  // namespace fulgur::cuda::hopper

// The loading warpgroups of lightning attention on Hopper (ops/cuda/lightning_hopper.cuh).
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/lightning_hopper.cuh"

namespace fulgur::cuda::hopper {

enum Part { kQ, kK, kV };
// What a loading warpgroup does: 64 columns of a part of every block, to shared addresses in the first stage.
struct Duty {
  int part, half;
  uint32_t tile;    // where they go; 0 where v itself is not wanted
  uint32_t aged;    // where decayed v goes
  int stage_bytes;  // from stage to stage
  uint4* raw;       // its own shared memory for the blocks that are on their way
  bool passed_on;   // to the other block of the cluster
};
// The addresses of the first stage's barriers, and what leads from them to the other block's.
struct StageBarriers {
  uint32_t full, empty, there;
};
// Sums of squares of a stage's rows, from both halves, and where they go: null where nowhere.
struct Squares {
  float sums[2][kGrid];
  float* to[kGrid];
};

inline constexpr int kPieces = 4, kAhead = 2;
inline constexpr int kRawWords = kPieces * kWarpgroup;  // uint4 of a warpgroup's share of a block

// A block as its loader remembers it: the number of its item, rows that are there (0: no block), and of them from the
// tail.
struct Block {
  int number = 0, rows = 0, held = 0;
  int first = 0, last = 0;  // of its item: 1
};

// Asks for kAhead blocks ahead, each thread for pieces that it alone reads. A thread has piece lane % 8, of eight
// columns, of rows 16 warp + lane / 8 + {0, 4, 8, 12}: so a warp writes rows of a tile that lie end to end, and passes
// them on by itself.
class Loader {
 public:
  // squares: of the stages, to be stored before they are filled again; null: not here.
  __device__ Loader(const Operands& p, const Items& items, const Duty& duty, const StageBarriers& barriers,
                    const Squares* squares)
      : p_(p),
        items_(items),
        duty_(duty),
        barriers_(barriers),
        squares_(squares),
        warp_(int(threadIdx.x) % kWarpgroup / 32),
        piece_(int(threadIdx.x) % 8),
        row_(warp_ * 16 + int(threadIdx.x) % 32 / 8),
        place_(duty.part == kV ? tile_offset(row_, piece_ / 4 * 32 + piece_ % 4 * 2) : tile_offset(row_, piece_ * 8)) {}

  __device__ void run() {
    seek(0);
    Block now = fetch(raw(0)), next = fetch(raw(1));
    Ring<kStages> at;
    for (int slot = 0; now.rows > 0; at.next(), slot ^= 1) {
      uint4 pieces[kPieces];
      take(pieces, raw(slot), now.held);
      const Block block = now;
      now = next, next = fetch(raw(slot));
      wait_empty(at);
      lay_out(pieces, block, at.slot);
      pass_on(at.slot);
      if (block.last && block.rows < kGrid && p_.slots && duty_.part != kQ) remember(pieces, block);
    }
    for (int i = 0; i < kStages; ++i, at.next()) wait_empty(at);
  }

 private:
  __device__ uint4* raw(int slot) const { return duty_.raw + slot * kRawWords + int(threadIdx.x) % kWarpgroup; }

  __device__ void wait_empty(const Ring<kStages>& at) const {
    barrier_wait_for_copies(barriers_.empty + 8 * at.slot, at.parity ^ 1);
    if (squares_) store_squares(squares_[at.slot]);
  }

  // The next block to ask for is the first of an item from `number` on.
  __device__ void seek(int number) {
    number = items_.next(number);
    asked_ = {};
    if (items_.done(number)) return;
    const Walk walk = items_[number];
    asked_ = {number, walk.held + walk.end - walk.begin, walk.held, 1, 0};
    from_ = p_.qkv + int64_t(walk.begin - walk.held + row_) * p_.qkv_row + walk.head * p_.qkv_head +
            duty_.part * p_.qkv_part + duty_.half * kHalf + piece_ * 8;
  }

  // Asks for the next block: rows before its new ones from the tail, zero behind them.
  __device__ Block fetch(uint4* to) {
    Block block = asked_;
    if (block.rows > 0) {
      if (block.held == 0 && block.rows >= kGrid) {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) copy_async(to + i * kWarpgroup, from_ + 4 * i * p_.qkv_row, true);
      } else {
        fetch_some(to, block);
      }
      block.last = block.rows <= kGrid, block.rows = min(block.rows, int(kGrid));
      if (block.last) seek(block.number + 1);
      else asked_.rows -= kGrid, asked_.held = 0, asked_.first = 0, from_ += kGrid * p_.qkv_row;
    }
    commit_copies();
    return block;
  }
  __device__ void fetch_some(uint4* to, const Block& block) const {
#pragma unroll 1
    for (int i = 0; i < kPieces; ++i) {
      const int row = row_ + 4 * i;
      const bool kept = row < block.held;
      const bf16* const from = kept ? tail_row(block, row) : from_ + 4 * i * p_.qkv_row;
      copy_async(to + i * kWarpgroup, from, row < block.rows && !(kept && duty_.part == kQ));
    }
  }

  // What has come of a block, new rows after SiLU.
  __device__ void take(uint4 (&pieces)[kPieces], const uint4* from, int held) const {
    wait_for_copies<kAhead - 1>();
#pragma unroll
    for (int i = 0; i < kPieces; ++i) pieces[i] = activated(from[i * kWarpgroup]);
    if (held == 0) return;
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      if (row_ + 4 * i < held) pieces[i] = from[i * kWarpgroup];
  }

  __device__ void lay_out(const uint4 (&pieces)[kPieces], const Block& block, int slot) {
    const uint32_t tile = duty_.tile + slot * duty_.stage_bytes, aged = duty_.aged + slot * duty_.stage_bytes;
    if (duty_.part != kV) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) store_at(place(tile, i), pieces[i]);
      return;
    }
    if (block.first) {
      const float decay = items_[block.number].decay;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) age_[i] = lambda(decay, kGrid - 1 - row_ - 4 * i);
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const float age = age_[i];
      if (duty_.tile) put_columns(place(tile, i), pieces[i]);
      put_columns(place(aged, i), mapped(pieces[i], [=](float x) { return age * x; }));
    }
  }

  // An open block's new rows to the tail.
  __device__ void remember(const uint4 (&pieces)[kPieces], const Block& block) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      if (const int row = row_ + 4 * i; row >= block.held && row < block.rows) put(tail_row(block, row), pieces[i]);
  }

  // The shared address of piece i in a tile: four rows further in the swizzle.
  __device__ uint32_t place(uint32_t tile, int i) const {
    return ((tile + place_) ^ (i % 2 * 64)) + i * 4 * kTileRowBytes;
  }
  // Columns of v in the order in which a product's threads hold eight neighbours each: see StateSum.
  __device__ void put_columns(uint32_t first, uint4 piece) const {
    store_at(first, piece.x), store_at(first ^ 16, piece.y), store_at(first ^ 32, piece.z),
        store_at(first ^ 48, piece.w);
  }

  // The warp's rows.
  __device__ void pass_on(int slot) const {
    fence_for_products();
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    const uint32_t full = barriers_.full + 8 * slot, there = barriers_.there;
    if (!duty_.passed_on) {
      barrier_arrive(full);
      return;
    }
    constexpr int kBytes = 16 * kTileRowBytes;
    const uint32_t rows = duty_.tile + slot * duty_.stage_bytes + warp_ * kBytes;
    copy_there(rows + there, rows, kBytes, full + there);
    barrier_arrive_expecting(full, kBytes);
  }

  // Of the rows that the stage held before: the warp's own.
  __device__ void store_squares(const Squares& squares) const {
    const int lane = int(threadIdx.x) % 32, row = warp_ * 16 + lane;
    if (lane >= 16) return;
    float* const to = squares.to[row];
    if (to) *to = squares.sums[0][row] + squares.sums[1][row];
  }

  // Of k or v.
  __device__ bf16* tail_row(const Block& block, int row) const {
    const Walk walk = items_[block.number];
    return p_.tail + walk.slot * p_.tail_slot + walk.head * p_.tail_head +
           ((duty_.part - kK) * int(kGrid) + row) * kHeadSize + duty_.half * kHalf + piece_ * 8;
  }

  const Operands& p_;
  const Items& items_;
  const Duty duty_;
  const StageBarriers barriers_;
  const Squares* const squares_;
  const int warp_, piece_, row_;
  const uint32_t place_;  // of its first piece in a tile; of v, of the piece's first pair
  Block asked_;           // the next block to ask for; its rows are all that are left of the item
  const bf16* from_ = nullptr;
  float age_[kPieces] = {};  // of v: lambda_(63 - row)
};

}  // namespace fulgur::cuda::hopper

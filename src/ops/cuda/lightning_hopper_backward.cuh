// Lightning attention's gradients on Hopper: bf16, heads of 128. What its two sweeps share.
//
// A thread block walks one head of one sequence in blocks of 64 rows: forward in time for dq, with the state S
// (lightning_hopper_query_sweep.cuh), or backward in time for dk and dv, with the state's gradient dS
// (lightning_hopper_key_value_sweep.cuh). Two warpgroups multiply, each with 64 rows of S or dS in its registers in
// f32; two load the blocks to come (lightning_hopper_backward_load.cuh).
#pragma once
#include "base/grid.h"
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda::hopper_backward {

inline constexpr int kHeadSize = 128, kBlock = int(kGrid);
inline constexpr int kSegment = 64;  // blocks
inline constexpr int kWarpgroup = 128, kMultipliers = 2 * kWarpgroup, kThreads = 4 * kWarpgroup;
inline constexpr int kMultiplierRegisters = 208, kCopierRegisters = 40, kActivatorRegisters = 56;

struct Operands {
  bf16* dqkv;
  const bf16 *d_o, *qkv;
  const float* decay;
  const int32_t* row_begin;
  const int64_t* positions;
  const int32_t* slots;  // null: every sequence starts from nothing and leaves nothing behind
  const float* state;
  const bf16* tail;
  float *d_state, *d_tail;
  const float* states;  // of segments, as forward found them; null: not known
  float* starts;        // null: walks are not divided; else where segments start
  int64_t heads, walks, segments;
  // Elements between rows, heads, parts and slots.
  int64_t dqkv_row, dqkv_head, dqkv_part, d_o_row, d_o_head, qkv_row, qkv_head, qkv_part;
  int64_t state_slot, state_head, tail_slot, tail_head, d_state_slot, d_state_head, d_tail_slot, d_tail_head;

  // In `starts` lie [walks, segments, 128, 128]: dS; as much of S, where forward's is not known; and, with slots,
  // [walks, 2, 64, 128]: the gradient of the tail, which one segment reads and another replaces.
  __device__ int64_t start_of(bool backward, int64_t number, int segment) const {
    return (((backward ? 0 : walks) + number) * segments + segment) * kHeadSize * kHeadSize;
  }
  __device__ int64_t start_of_tail(int64_t number) const {
    return start_of(false, walks, 0) + number * 2 * kBlock * kHeadSize;
  }
};

// What a thread block of a grid of 2 x walks x segments does: those of its first half go backward in time.
struct Item {
  int64_t number;  // of the walk
  int segment;
  bool backward;
  __device__ explicit Item(const Operands& p) {
    const int64_t items = p.walks * p.segments, item = blockIdx.x % items;
    number = item / p.segments, segment = int(item % p.segments), backward = blockIdx.x < items;
  }
};

// One head of one sequence: batch rows, how many rows of its first block the tail holds, its blocks, and those of them
// that a thread block walks: all, or one of the segments that p.starts has the beginnings of.
struct Walk {
  int begin, end, blocks, head, held, slot, first, last;
  __device__ Walk(const Operands& p, int64_t number, int segment)
      : begin(p.row_begin[number / p.heads]),
        end(p.row_begin[number / p.heads + 1]),
        head(int(number % p.heads)),
        held(p.slots && end > begin ? int(p.positions[begin] % kBlock) : 0),
        slot(p.slots ? p.slots[number / p.heads] : 0) {
    blocks = end > begin ? (held + end - begin + kBlock - 1) / kBlock : 0;
    first = min(segment * kSegment, blocks), last = p.starts ? min(first + kSegment, blocks) : blocks;
  }
  __device__ int count() const { return last - first; }
  // Rows of a block that are there, those of the tail among them.
  __device__ int present(int block) const { return min(held + end - begin - block * kBlock, kBlock); }
  __device__ int held_in(int block) const { return block == 0 ? held : 0; }
  __device__ int first_row(int block) const { return begin - held + block * kBlock; }
};

// Where a walk finds S before its first block (kBackward: dS behind its last); null: zero.
template <bool kBackward>
__device__ inline const float* start_of(const Operands& p, const Walk& walk) {
  if (p.starts && p.states && !kBackward) {
    const int64_t start = walk.first_row(walk.first) / (kSegment * kBlock);
    return walk.first == 0 ? nullptr : p.states + (start * p.heads + walk.head) * kHeadSize * kHeadSize;
  }
  if (p.starts) return p.starts + p.start_of(kBackward, Item(p).number, Item(p).segment);
  if (!p.slots) return nullptr;
  return kBackward ? p.d_state + walk.slot * p.d_state_slot + walk.head * p.d_state_head
                   : p.state + walk.slot * p.state_slot + walk.head * p.state_head;
}

// 64 rows of 128 columns: columns 0 to 63 in the first tile.
inline constexpr int kRowsBytes = 2 * kTileBytes;
using RowTiles = uint8_t[kRowsBytes];
__device__ inline int rows_offset(int row, int column) {
  return column / 64 * kTileBytes + tile_offset(row, column % 64);
}
// Sixteen steps of k further: along rows and on to the next tile, `apart` bytes on, or down a tile's rows.
__device__ inline uint64_t along(int i, int apart = kTileBytes) { return uint64_t((i / 4 * apart + i % 4 * 32) >> 4); }
__device__ inline uint64_t down(int i) { return uint64_t(i * 16 * kTileRowBytes >> 4); }

// Powers of a head's lambda.
struct Powers {
  float of[kBlock + 2];      // lambda_n
  float aging[kBlock];       // what row i of a block is multiplied by on its way into S or dS
  float2 decay[2 * kBlock];  // [n + 63]: lambda_n and lambda_(n + 1), 0 where that is a power below 0
};
template <bool kBackward>
__device__ inline void fill(Powers& powers, float decay, unsigned thread) {
  const auto power = [=](int n) { return n < 0 ? 0 : expf(-(decay * float(n))); };
  if (thread <= kBlock) powers.of[thread] = power(int(thread));
  if (thread < kBlock) powers.aging[thread] = power(kBackward ? int(thread) + 1 : kBlock - 1 - int(thread));
  if (thread < 2 * kBlock) powers.decay[thread] = {power(int(thread) - 63), power(int(thread) - 62)};
}

// The barriers of a ring of stages: rows have come, they have passed SiLU, they have been multiplied.
struct Ring {
  static constexpr int kMost = 5;
  uint64_t landed[kMost], full[kMost], empty[kMost];
};
// Where a walk through the ring is.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t round = 0;  // parity of the stage's uses
  __device__ void next() {
    if (++stage == kStages) stage = 0, round ^= 1;
  }
};

__device__ inline float first_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float second_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000); }

// What both sweeps' multipliers do alike. A thread of a warpgroup holds of 64 rows of sums: rows row() and row() + 8,
// and of each eight columns two from pair() on (ops/cuda/hopper.cuh).
class Multiplier {
 public:
  // half: which of the two warpgroups.
  __device__ Multiplier(const Operands& p, const Walk& walk, const Powers& powers, int half)
      : p_(p),
        walk_(walk),
        powers_(powers),
        half_(half),
        warp_(int(threadIdx.x) % kWarpgroup / 32),
        lane_(int(threadIdx.x) % 32),
        row_(warp_ * 16 + lane_ / 4),
        pair_(lane_ % 4 * 2),
        offset_(tile_offset(warp_ * 16 + lane_ % 16, lane_ / 16 * 8)) {}

 protected:
  // Rows of scores times lambda_n, n = sign (column - row), as they enter a product from registers.
  template <bool kBackward>
  __device__ void weigh(const float (&scores)[32], uint32_t (&weights)[4][4]) const {
    const float2* const decay = powers_.decay + 63 + (kBackward ? pair_ - row_ : row_ - pair_ - 1);
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 power = decay[kBackward ? 8 * (j - r) : 8 * (r - j)];
        weights[j / 2][j % 2 * 2 + r] = bf16_pair(scores[4 * j + 2 * r] * (kBackward ? power.x : power.y),
                                                  scores[4 * j + 2 * r + 1] * (kBackward ? power.y : power.x));
      }
  }

  // 64 columns of a block's rows, aged and turned over, as they enter a product from registers.
  __device__ void age(uint32_t (&aged)[4][4], const uint8_t* tile) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      load_matrices_transposed(
          aged[i], reinterpret_cast<const bf16*>(
                       tile + tile_offset(16 * i + lane_ / 16 * 8 + lane_ % 8, warp_ * 16 + lane_ / 8 % 2 * 8)));
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float2 power = *reinterpret_cast<const float2*>(powers_.aging + 16 * i + 8 * k + pair_);
#pragma unroll
        for (uint32_t* pair : {&aged[i][2 * k], &aged[i][2 * k + 1]})
          *pair = bf16_pair(first_of(*pair) * power.x, second_of(*pair) * power.y);
      }
    }
  }

  // body(i, sums[i], sums[i + 1]) for the pairs of sums, and where pair i is.
  template <int kSums, class Body>
  __device__ static void for_pairs(float (&sums)[kSums], const Body& body) {
#pragma unroll
    for (int i = 0; i < kSums; i += 2) body(i, sums[i], sums[i + 1]);
  }
  __device__ int row_of(int i) const { return row_ + i / 2 % 2 * 8; }
  __device__ int column_of(int i) const { return i / 4 * 8 + pair_; }

  // Where the lane finds, in swizzled tiles, its row of the four matrices that hold sums i to i + 7; columns 64 on lie
  // `apart` bytes on.
  __device__ bf16* matrices_of(uint8_t* tiles, int i, int apart = kTileBytes) const {
    return reinterpret_cast<bf16*>(tiles + (offset_ ^ i / 4 % 8 * 16) + i / 32 * apart);
  }
  // The warpgroup's 64 rows of what is stored of S or dS (kTurned: columns, turned over); null: zeros.
  template <bool kTurned>
  __device__ void load(float (&sums)[64], const float* from) const {
    for_pairs(sums, [&](int i, float& x, float& y) {
      const int row = half_ * 64 + row_of(i), column = column_of(i);
      const int at = kTurned ? column * kHeadSize + row : row * kHeadSize + column, next = kTurned ? kHeadSize : 1;
      x = from ? from[at] : 0, y = from ? from[at + next] : 0;
    });
  }
  __device__ void store(float (&sums)[64], float* to) const {
    for_pairs(sums, [&](int i, float x, float y) {
      const int at = (half_ * 64 + row_of(i)) * kHeadSize + column_of(i);
      to[at] = x, to[at + 1] = y;
    });
  }
  // Sums as they enter a product.
  __device__ void copy(float (&sums)[64], uint8_t* tiles, int apart) const {
#pragma unroll
    for (int i = 0; i < 64; i += 8) {
      uint32_t pairs[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) pairs[n] = bf16_pair(sums[i + 2 * n], sums[i + 2 * n + 1]);
      store_matrices(pairs, matrices_of(tiles, i, apart));
    }
  }
  template <int kSums>
  __device__ static void scale(float (&sums)[kSums], float upper, float lower) {
#pragma unroll
    for (int i = 0; i < kSums; i += 4)
      sums[i] *= upper, sums[i + 1] *= upper, sums[i + 2] *= lower, sums[i + 3] *= lower;
  }

  // Gradients of what SiLU took, in place of its slopes, from those of what it gave. The warp's 16 rows only.
  template <int kSums>
  __device__ void pass_silu(float (&sums)[kSums], uint8_t* tiles) const {
    constexpr int kAtOnce = 32;  // sums whose slopes are loaded before the first result is stored
#pragma unroll
    for (int first = 0; first < kSums; first += kAtOnce) {
      uint32_t pairs[kAtOnce / 8][4];
#pragma unroll
      for (int i = 0; i < kAtOnce; i += 8) load_matrices(pairs[i / 8], matrices_of(tiles, first + i));
#pragma unroll
      for (int i = 0; i < kAtOnce; i += 2) {
        uint32_t& pair = pairs[i / 8][i / 2 % 4];
        const float2 slope = numbers_of_f16(pair);
        pair = bf16_pair(sums[first + i] * slope.x, sums[first + i + 1] * slope.y);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i += 8) store_matrices(pairs[i / 8], matrices_of(tiles, first + i));
    }
  }

  const Operands& p_;
  const Walk& walk_;
  const Powers& powers_;
  const int half_, warp_, lane_, row_, pair_, offset_;
};

}  // namespace fulgur::cuda::hopper_backward

// Lightning attention on Hopper where every sequence brings one row: bf16, heads of 128, a thread block each. The work
// is to read what a head remembers, 64 KB of S and up to 32 KB of k and v rows. Four warps read S, 32 value columns
// each, straight to the registers from which the matrix unit takes it; a fifth reads the rows, adds the new one and
// makes the block's weights, while S is on its way (ops/cuda/lightning_decode_rows.cuh). They are asked for
// between the halves of S: memory answers in the order of the questions.
//
// Bits are those of ops/cuda/lightning_hopper.cuh, which says what decides them: the matrix unit adds sixteen products
// to a sum in the same way whether a warpgroup or a warp asks, whichever operand is the left one. Here the left one is
// what was read, turned: rows of a product are value columns, or the block's rows for scores, and its eight columns are
// all the one row of q.
#pragma once
#include "ops/cuda/lightning_hopper.cuh"
#include "ops/cuda/tiles.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kStateWarps = 4, kDecodeThreads = 32 * (kStateWarps + 1);
inline constexpr int kRowStride = kHeadSize + 8;  // in shared memory: rows begin in different banks
inline constexpr int kSteps = kHeadSize / 16;     // of a product over a head's columns

struct DecodeOperands {
  // What leads to a head's memory, in one line of 64 bytes.
  const int32_t* slots;
  const int64_t* positions;
  float* state;
  bf16* tail;
  int64_t state_slot, state_head, tail_slot, tail_head;  // elements between slots, heads

  const int32_t* row_begin;  // null: no sequence is without a row, sequence n brings row n
  const bf16* qkv;
  const float* decay;
  bf16* o;
  float* squares;  // null: not wanted
  int64_t qkv_row, qkv_head, qkv_part, o_row, o_head, squares_head;
};

struct DecodeShared {
  alignas(16) bf16 k[kGrid][kRowStride];
  alignas(16) bf16 v[kGrid][kRowStride];  // rows behind the new one are zeros to a multiple of 16, then nothing
  alignas(16) bf16 q[kHeadSize];
  alignas(16) bf16 weights[kGrid];  // of the block's rows, as they meet v
  alignas(16) float o[kHeadSize];
  float power[kGrid + 1];  // lambda_n
};

// The thread's pair of a row that is a product's every column.
__device__ inline uint32_t pair_of(const bf16* row) {
  return *reinterpret_cast<const uint32_t*>(row + threadIdx.x % 4 * 2);
}

// A sequence's row and head.
struct DecodeRow {
  int64_t row;
  int head;
  int held;  // rows of the block before the new one
  float* state;
  bf16* tail;
  __device__ DecodeRow(const DecodeOperands& p, int sequence, int head, int64_t row)
      : row(row), head(head), held(int(p.positions[row] % kGrid)) {
    const int64_t slot = p.slots[sequence];
    state = p.state + slot * p.state_slot + head * p.state_head;
    tail = p.tail + slot * p.tail_slot + head * p.tail_head;
  }
};

// The warps that read S.
class StateReader {
  using State = float4[kSteps][4];
  using Values = uint32_t[int(kGrid) / 16][2][4];  // rows of v, turned: see load_values

 public:
  __device__ StateReader(const DecodeOperands& p, DecodeShared& shared, const DecodeRow& at)
      : shared_(shared),
        pair_(int(threadIdx.x) % 4 * 2),
        column_(int(threadIdx.x) / 32 * 32 + int(threadIdx.x) % 32 / 4 * 4),
        state_(at.state + pair_ * kHeadSize + column_),
        held_(at.held),
        o_(p.o + at.row * p.o_row + at.head * p.o_head + column_) {}

  // meet: waits until the fifth warp has asked for the rows; then, until all of theirs is in shared memory.
  template <class Meet>
  __device__ void run(const Meet& meet) const {
    State state;
    load<0, kSteps / 2>(state);
    meet();
    load<kSteps / 2, kSteps>(state);
    meet();
    Values values;
#pragma unroll
    for (int i = 0; i < 4; ++i) load_values(values[i], 16 * i);
    float o[2][4] = {};
    multiply_state(o, state);
    add_values(o, values);
    store(o);
    if (held_ + 1 == kGrid) replace_state(values);
  }

 private:
  // Row 16 step + pair_ + {0, 1, 8, 9} of S, four columns from column_ on.
  __device__ float4* at(int step, int i) const {
    return reinterpret_cast<float4*>(state_ + (16 * step + i % 2 + i / 2 * 8) * kHeadSize);
  }

  template <int kBegin, int kEnd>
  __device__ void load(State& state) const {
#pragma unroll
    for (int step = kBegin; step < kEnd; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) state[step][i] = *at(step, i);
  }

  // q S. o[m][0] and o[m][2]: of columns 2 m and 2 m + 1 of the thread's four; the others say the same.
  __device__ void multiply_state(float (&o)[2][4], const State& state) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const float4(&s)[4] = state[step];
      const uint32_t early = pair_of(shared_.q + 16 * step), late = pair_of(shared_.q + 16 * step + 8);
      const uint32_t first[] = {bf16_pair(s[0].x, s[1].x), bf16_pair(s[0].y, s[1].y), bf16_pair(s[2].x, s[3].x),
                                bf16_pair(s[2].y, s[3].y)};
      const uint32_t second[] = {bf16_pair(s[0].z, s[1].z), bf16_pair(s[0].w, s[1].w), bf16_pair(s[2].z, s[3].z),
                                 bf16_pair(s[2].w, s[3].w)};
      multiply_add_16(o[0], first, early, late), multiply_add_16(o[1], second, early, late);
    }
  }

  // o, of S alone before: times lambda_(held + 1), and the weighed rows of v.
  __device__ void add_values(float (&o)[2][4], const Values& values) const {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[m][i] *= shared_.power[held_ + 1];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t early = pair_of(shared_.weights + 16 * i), late = pair_of(shared_.weights + 16 * i + 8);
      multiply_add_16(o[0], values[i][0], early, late), multiply_add_16(o[1], values[i][1], early, late);
    }
  }

  // Rows [first, first + 16) of v, turned: two fragments of the thread's columns, pairs of rows from pair_ on. Zeros
  // where none of them is there.
  __device__ void load_values(uint32_t (&to)[2][4], int first) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint2 above{}, below{};
      if (first <= held_) {
        above = *reinterpret_cast<const uint2*>(&shared_.v[first + pair_ + 8 * half][column_]);
        below = *reinterpret_cast<const uint2*>(&shared_.v[first + pair_ + 8 * half + 1][column_]);
      }
      to[0][2 * half] = (above.x & 0xffff) | below.x << 16,
                to[0][2 * half + 1] = above.x >> 16 | (below.x & 0xffff0000);
      to[1][2 * half] = (above.y & 0xffff) | below.y << 16,
                to[1][2 * half + 1] = above.y >> 16 | (below.y & 0xffff0000);
    }
  }
  // Rows from `first` on, turned, times lambda_(63 - row).
  __device__ void age(uint32_t (&rows)[2][4], int first) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const power = shared_.power + kGrid - 1 - (first + pair_ + i / 2 * 8);
#pragma unroll
      for (int m = 0; m < 2; ++m)
        rows[m][i] = bf16_pair(power[0] * __uint_as_float(rows[m][i] << 16),
                               power[-1] * __uint_as_float(rows[m][i] & 0xffff0000));
    }
  }

  __device__ void store(const float (&o)[2][4]) const {
    if (pair_ != 0) return;
    const float4 columns{o[0][0] + 0.0F, o[0][2] + 0.0F, o[1][0] + 0.0F, o[1][2] + 0.0F};
    *reinterpret_cast<float4*>(&shared_.o[column_]) = columns;
    *reinterpret_cast<uint2*>(o_) = {bf16_pair(columns.x, columns.y), bf16_pair(columns.z, columns.w)};
  }

  // S after the block's last row: lambda_64 S + k^T (v, aged).
  __device__ void replace_state(Values& values) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) age(values[i], 16 * i);
    const Tile<bf16> keys{shared_.k[0], kRowStride};
    const float fade = shared_.power[kGrid];
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const float4 s[] = {*at(step, 0), *at(step, 1), *at(step, 2), *at(step, 3)};
      float sums[2][2][4];  // rows of S: eight, and the next eight; pairs of columns
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const float4 &x = s[2 * side], &y = s[2 * side + 1];
        const float of_s[] = {x.x, y.x, x.y, y.y, x.z, y.z, x.w, y.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[side][i / 4][i % 4] = of_s[i] * fade;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t columns[4];
        load_columns<Steps::outside>(columns, keys, 16 * step, 16 * i);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add_16(sums[0][m], values[i][m], columns[0], columns[1]);
          multiply_add_16(sums[1][m], values[i][m], columns[2], columns[3]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&of)[2][4] = sums[i / 2];
        *at(step, i) = {of[0][i % 2], of[0][2 + i % 2], of[1][i % 2], of[1][2 + i % 2]};
      }
    }
  }

  DecodeShared& shared_;
  const int pair_, column_;  // the thread's first of four value columns
  float* const state_;       // row pair_, column column_
  const int held_;           // rows of the block before the new one
  bf16* const o_;
};

}  // namespace fulgur::cuda::hopper

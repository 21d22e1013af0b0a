// Lightning attention on Hopper where every sequence brings one row: bf16, heads of 128, a thread block each. The work
// is to read what a head remembers, 64 KB of S and up to 32 KB of k and v rows. Four warps have S copied to shared
// memory and multiply what has arrived, 32 value columns each; a fifth reads the rows, adds the new one and makes the
// block's weights, while S is on its way (ops/cuda/lightning_decode_rows.cuh).
//
// What is remembered is read before the kernels before have ended: of a forward pass none but this one touches it, and
// the first one began when all before it had ended (ops/embedding_cuda.cu).
//
// Bits are those of ops/cuda/lightning_hopper.cuh, which says what decides them: the matrix unit adds sixteen products
// to a sum in the same way whether a warpgroup or a warp asks, whichever operand is the left one. Here the left one is
// what was read, turned: rows of a product are value columns, or the block's rows for scores, and its eight columns are
// all the one row of q.
#pragma once
#include "ops/cuda/cluster_copy.cuh"
#include "ops/cuda/lightning_hopper.cuh"
#include "ops/cuda/tiles.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kStateWarps = 4, kDecodeThreads = 32 * (kStateWarps + 1);
inline constexpr int kRowStride = kHeadSize + 8;  // in shared memory: rows begin in different banks
inline constexpr int kRowsOfS = 4;                // that are copied at once; in shared memory a gap follows
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
  alignas(16) float state[kHeadSize / kRowsOfS][kRowsOfS * kHeadSize + 8];
  alignas(16) bf16 k[kGrid][kRowStride];
  alignas(16) bf16 v[kGrid][kRowStride];  // rows behind the new one are zeros to a multiple of 16, then nothing
  alignas(16) bf16 q[kHeadSize];
  alignas(16) bf16 weights[kGrid];  // of the block's rows, as they meet v
  alignas(16) float o[kHeadSize];
  float power[kGrid + 1];  // lambda_n
  uint64_t there[kSteps];  // sixteen rows of S
};

// The thread's pair of a row that is a product's every column.
__device__ inline uint32_t pair_of(const bf16* row) {
  return *reinterpret_cast<const uint32_t*>(row + threadIdx.x % 4 * 2);
}

// A sequence's row and head.
struct DecodeRow {
  int64_t row, position;
  int head, slot;
  __device__ DecodeRow(const DecodeOperands& p, int sequence, int head, int64_t row)
      : row(row), position(p.positions[row]), head(head), slot(p.slots[sequence]) {}

  __device__ int held() const { return int(position % kGrid); }  // rows of the block before the new one
  __device__ float* state(const DecodeOperands& p) const { return p.state + slot * p.state_slot + head * p.state_head; }
  __device__ bf16* tail(const DecodeOperands& p) const { return p.tail + slot * p.tail_slot + head * p.tail_head; }
};

// The warps that read S.
class StateReader {
  using Values = uint32_t[int(kGrid) / 16][2][4];  // rows of v, turned: see load_values

 public:
  __device__ StateReader(const DecodeOperands& p, DecodeShared& shared, const DecodeRow& at)
      : shared_(shared),
        pair_(int(threadIdx.x) % 4 * 2),
        column_(int(threadIdx.x) / 32 * 32 + int(threadIdx.x) % 32 / 4 * 4),
        held_(at.held()),
        state_(at.state(p)),
        o_(p.o + at.row * p.o_row + at.head * p.o_head + column_) {}

  // meet: waits for the fifth warp; first for q, then for all that it makes.
  template <class Meet>
  __device__ void run(const Meet& meet) const {
    fetch_state();
    await_previous();
    meet();
    float o[2][4] = {};
    multiply_state(o);
    meet();
    Values values;
#pragma unroll
    for (int i = 0; i < 4; ++i) load_values(values[i], 16 * i);
    add_values(o, values);
    store(o);
    if (held_ + 1 == kGrid) replace_state(values);
  }

 private:
  // Four rows a lane, by eight lanes of each warp.
  __device__ void fetch_state() const {
    constexpr int kCopies = kHeadSize / kRowsOfS / kStateWarps, kBytes = kRowsOfS * kHeadSize * int(sizeof(float));
    const int lane = int(threadIdx.x) % 32, i = int(threadIdx.x) / 32 * kCopies + lane, per_step = 16 / kRowsOfS;
    if (lane >= kCopies) return;
    const uint32_t there = shared_address(&shared_.there[i / per_step]);
    if (i % per_step == 0) barrier_arrive_expecting(there, per_step * kBytes);
    copy_here(shared_address(shared_.state[i]), state_ + i * kRowsOfS * kHeadSize, kBytes, there);
  }
  // Of row `row` of S, four columns from column_ on.
  __device__ float4 state_at(int row) const {
    return *reinterpret_cast<const float4*>(&shared_.state[row / kRowsOfS][row % kRowsOfS * kHeadSize + column_]);
  }

  // q S. o[m][0] and o[m][2]: of columns 2 m and 2 m + 1 of the thread's four; the others say the same.
  __device__ void multiply_state(float (&o)[2][4]) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      // The thread's first of four: sixteen rows of a product may be in any order.
      const int row = 16 * step + 2 * pair_;
      const uint2 q = *reinterpret_cast<const uint2*>(shared_.q + row);
      barrier_wait_for_copies(shared_address(&shared_.there[step]), 0);
      const float4 s[] = {state_at(row), state_at(row + 1), state_at(row + 2), state_at(row + 3)};
      const uint32_t first[] = {bf16_pair(s[0].x, s[1].x), bf16_pair(s[0].y, s[1].y), bf16_pair(s[2].x, s[3].x),
                                bf16_pair(s[2].y, s[3].y)};
      const uint32_t second[] = {bf16_pair(s[0].z, s[1].z), bf16_pair(s[0].w, s[1].w), bf16_pair(s[2].z, s[3].z),
                                 bf16_pair(s[2].w, s[3].w)};
      multiply_add_16(o[0], first, q.x, q.y), multiply_add_16(o[1], second, q.x, q.y);
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
      const int row = 16 * step + pair_;  // and the next, and those eight behind
      const float4 s[] = {state_at(row), state_at(row + 1), state_at(row + 8), state_at(row + 9)};
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
        float* const to = state_ + (row + i % 2 + i / 2 * 8) * kHeadSize + column_;
        *reinterpret_cast<float4*>(to) = {of[0][i % 2], of[0][2 + i % 2], of[1][i % 2], of[1][2 + i % 2]};
      }
    }
  }

  DecodeShared& shared_;
  const int pair_, column_;  // the thread's first of four value columns
  const int held_;           // rows of the block before the new one
  float* const state_;
  bf16* const o_;
};

}  // namespace fulgur::cuda::hopper

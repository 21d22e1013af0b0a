// Lightning attention on Hopper where every sequence brings one row: bf16, heads of 128, a thread block each. The work
// is to read what a head remembers, 64 KB of S and up to 32 KB of k and v rows; all of it is asked for before the first
// product.
//
// Bits are those of ops/cuda/lightning_hopper.cuh, which says what decides them: the matrix unit adds sixteen products
// to a sum in the same way whether a warpgroup or a warp asks, whichever operand is the left one. Here the left one is
// what was read, turned: rows of a product are value columns, or the block's rows for scores, and its eight columns are
// all the one row of q.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/lightning_hopper.cuh"
#include "ops/cuda/lightning_operands.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kDecodeWarps = 4, kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kPadding = 8;  // so that rows in shared memory begin in different banks

struct DecodeOperands {
  LightningInputs<bf16> in;
  View<bf16, 3> o;
  View<float, 2> squares;  // data null: not wanted
  bool one_each;           // no sequence is without a row: sequence n brings row n
};

struct DecodeShared {
  alignas(16) bf16 k[kGrid][kHeadSize + kPadding];
  alignas(16) bf16 v[kGrid][kHeadSize + kPadding];
  alignas(16) bf16 q[kHeadSize];
  alignas(16) bf16 weights[kGrid];  // of the block's rows, as they meet v
  alignas(16) float o[kHeadSize];
  float power[kGrid + 1];  // lambda_n
};

class Decode {
  static constexpr int kSteps = kHeadSize / 16, kPieces = kHeadSize / 8;  // pieces of 16 bytes of a row
  using StatePart = float4[kSteps][4];

 public:
  __device__ Decode(const DecodeOperands& p, DecodeShared& shared, int sequence, int head, int64_t row)
      : p_(p),
        shared_(shared),
        head_(head),
        row_(row),
        warp_(int(threadIdx.x) / 32),
        pair_(int(threadIdx.x) % 4 * 2),
        column_(warp_ * 32 + int(threadIdx.x) % 32 / 4 * 4),
        held_(int(p.in.positions(row) % kGrid)) {
    const int64_t slot = p.in.slots(sequence);
    state_ = &p.in.state(slot, head, pair_, column_);
    tail_ = &p.in.tail(slot, head, 0, 0, 0);
  }

  __device__ void run() const {
    const float decay = p_.in.decay(head_);
    const uint4 piece = row_piece();
    fetch_tail(tail_, shared_.k), fetch_tail(tail_ + kGrid * kHeadSize, shared_.v);
    StatePart state;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) state[step][i] = *state_at(step, i);
    if (threadIdx.x <= kGrid) shared_.power[threadIdx.x] = expf(-(decay * float(threadIdx.x)));
    add_row(piece);
    wait_for_copies();
    __syncthreads();

    weigh();
    float o[2][4] = {};
    multiply_state(o, state);
    __syncthreads();
    add_values(o);
    store(o);
    if (held_ + 1 == kGrid) replace_state();
  }

 private:
  // Row 16 step + pair_ + {0, 1, 8, 9} of S, four columns from column_ on.
  __device__ float4* state_at(int step, int i) const {
    return reinterpret_cast<float4*>(state_ + (16 * step + i % 2 + i / 2 * 8) * kHeadSize);
  }

  // Rows [0, held) of k or v, and zeros to the next multiple of 16.
  __device__ void fetch_tail(const bf16* from, bf16 (*to)[kHeadSize + kPadding]) const {
    constexpr int kRowsAtOnce = kDecodeThreads / kPieces;
    const int rows = (held_ + 16) / 16 * 16, column = int(threadIdx.x) % kPieces * 8;
#pragma unroll
    for (int i = 0; i < int(kGrid) / kRowsAtOnce; ++i) {
      const int row = int(threadIdx.x) / kPieces + i * kRowsAtOnce;
      if (row < rows && row != held_) copy_async(&to[row][column], from + row * kHeadSize + column, row < held_);
    }
  }

  // Of the sequence's row: pieces of eight numbers of q, k and v, one a thread, before SiLU.
  __device__ bool has_piece() const { return threadIdx.x < 3 * kPieces; }
  __device__ int piece_part() const { return int(threadIdx.x) / kPieces; }
  __device__ int piece_column() const { return int(threadIdx.x) % kPieces * 8; }
  __device__ uint4 row_piece() const {
    if (!has_piece()) return {};
    return *reinterpret_cast<const uint4*>(&p_.in.qkv(row_, head_, piece_part(), piece_column()));
  }
  // The row becomes row `held` of its block, and of the tail unless it ends the block.
  __device__ void add_row(uint4 raw) const {
    if (!has_piece()) return;
    const uint4 piece = activated(raw);
    const int part = piece_part(), column = piece_column();
    bf16* const to = part == 0 ? shared_.q : part == 1 ? shared_.k[held_] : shared_.v[held_];
    *reinterpret_cast<uint4*>(to + column) = piece;
    if (part > 0 && held_ + 1 < kGrid)
      *reinterpret_cast<uint4*>(tail_ + ((part - 1) * kGrid + held_) * kHeadSize + column) = piece;
  }

  // lambda_(held - j) q k_j of the block's rows j <= held, as they enter the product with v; zero behind. Of each warp
  // sixteen rows.
  __device__ void weigh() const {
    const int first = 16 * warp_;
    if (first > held_) return;
    const Tile<bf16> keys{shared_.k[first], kHeadSize + kPadding};
    float scores[4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t rows[4];
      load_rows<Steps::inside>(rows, keys, 0, 16 * step);
      multiply_add_16(scores, rows, pair_at(shared_.q + 16 * step), pair_at(shared_.q + 16 * step + 8));
    }
    if (pair_ != 0) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int j = first + int(threadIdx.x) % 32 / 4 + 8 * half;
      shared_.weights[j] = bf16(j <= held_ ? scores[2 * half] * shared_.power[held_ - j] : 0.0F);
    }
  }

  // The thread's pair of a row that is a product's every column.
  __device__ uint32_t pair_at(const bf16* row) const { return *reinterpret_cast<const uint32_t*>(row + pair_); }

  // q S. o[m][0] and o[m][2]: of columns 2 m and 2 m + 1 of the thread's four; the others say the same.
  __device__ void multiply_state(float (&o)[2][4], const StatePart& state) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const float4(&s)[4] = state[step];
      const uint32_t early = pair_at(shared_.q + 16 * step), late = pair_at(shared_.q + 16 * step + 8);
      const uint32_t first[] = {bf16_pair(s[0].x, s[1].x), bf16_pair(s[0].y, s[1].y), bf16_pair(s[2].x, s[3].x),
                                bf16_pair(s[2].y, s[3].y)};
      const uint32_t second[] = {bf16_pair(s[0].z, s[1].z), bf16_pair(s[0].w, s[1].w), bf16_pair(s[2].z, s[3].z),
                                 bf16_pair(s[2].w, s[3].w)};
      multiply_add_16(o[0], first, early, late), multiply_add_16(o[1], second, early, late);
    }
  }

  // o, of S alone before: times lambda_(held + 1), and the weighed rows of v.
  __device__ void add_values(float (&o)[2][4]) const {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[m][i] *= shared_.power[held_ + 1];
    for (int first = 0; first <= held_; first += 16) {
      uint32_t rows[2][4];
      load_values(rows, first);
      const uint32_t early = pair_at(shared_.weights + first), late = pair_at(shared_.weights + first + 8);
      multiply_add_16(o[0], rows[0], early, late), multiply_add_16(o[1], rows[1], early, late);
    }
  }

  // Rows [first, first + 16) of v, turned: two fragments of the thread's columns, pairs of rows from `pair_` on.
  __device__ void load_values(uint32_t (&to)[2][4], int first) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + pair_ + 8 * half;
      const uint2 above = *reinterpret_cast<const uint2*>(&shared_.v[row][column_]);
      const uint2 below = *reinterpret_cast<const uint2*>(&shared_.v[row + 1][column_]);
      to[0][2 * half] = (above.x & 0xffff) | below.x << 16,
                to[0][2 * half + 1] = above.x >> 16 | (below.x & 0xffff0000);
      to[1][2 * half] = (above.y & 0xffff) | below.y << 16,
                to[1][2 * half + 1] = above.y >> 16 | (below.y & 0xffff0000);
    }
  }
  // The same rows times lambda_(63 - row).
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
    const float columns[] = {o[0][0] + 0.0F, o[0][2] + 0.0F, o[1][0] + 0.0F, o[1][2] + 0.0F};
    if (pair_ == 0) {
      *reinterpret_cast<uint2*>(&p_.o(row_, head_, column_)) = {bf16_pair(columns[0], columns[1]),
                                                                bf16_pair(columns[2], columns[3])};
      *reinterpret_cast<float4*>(&shared_.o[column_]) = {columns[0], columns[1], columns[2], columns[3]};
    }
    if (p_.squares.data) store_squares();
  }

  // Four threads a half of the columns, then the halves.
  __device__ void store_squares() const {
    __syncthreads();
    if (warp_ != 0) return;
    const float* const quarter = shared_.o + int(threadIdx.x) / 4 % 2 * kHalf + 4 * pair_;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float x = quarter[i / 8 * 32 + i % 8];
      sum = fmaf(x, x, sum);
    }
#pragma unroll
    for (int lanes = 1; lanes < 8; lanes *= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
    if (threadIdx.x == 0) p_.squares(head_, row_) = sum;
  }

  // S after the block's last row: lambda_64 S + k^T (v, aged).
  __device__ void replace_state() const {
    uint32_t aged[4][2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) load_values(aged[i], 16 * i), age(aged[i], 16 * i);
    const Tile<bf16> keys{shared_.k[0], kHeadSize + kPadding};
    const float fade = shared_.power[kGrid];
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const float4 s[] = {*state_at(step, 0), *state_at(step, 1), *state_at(step, 2), *state_at(step, 3)};
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
          multiply_add_16(sums[0][m], aged[i][m], columns[0], columns[1]);
          multiply_add_16(sums[1][m], aged[i][m], columns[2], columns[3]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&of)[2][4] = sums[i / 2];
        *state_at(step, i) = {of[0][i % 2], of[0][2 + i % 2], of[1][i % 2], of[1][2 + i % 2]};
      }
    }
  }

  const DecodeOperands& p_;
  DecodeShared& shared_;
  const int head_;
  const int64_t row_;
  const int warp_, pair_, column_;  // the thread's first of four value columns
  const int held_;                  // rows of the block before this one
  float* state_;                    // row pair_, column column_
  bf16* tail_;
};

}  // namespace fulgur::cuda::hopper

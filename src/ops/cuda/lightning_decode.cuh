// Lightning attention on Hopper where every sequence brings one row: bf16, heads of 128. The work is to read what a
// head remembers, 64 KB of S and up to 32 KB of k and v rows; all of it is asked for before the first product.
//
// Bits are those of ops/cuda/lightning_hopper.cuh: the matrix unit adds sixteen products to a sum in the same way
// whether a warpgroup or a warp asks, whichever operand is the left one. Here the left one is what was read, turned:
// rows of a product are value columns, or the block's rows for scores, and its eight columns are all the one row of q.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/lightning_hopper.cuh"
#include "ops/cuda/lightning_operands.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kWarpColumns = 32;  // value columns of a warp

struct DecodeOperands {
  LightningInputs<bf16> in;
  View<bf16, 3> o;
  View<float, 2> squares;  // data null: not wanted
  bool one_each;           // no sequence is without a row: sequence n brings row n
};

// Of a thread block with `kWarps` warps: a head, or one of its parts of kColumns value columns.
template <int kWarps>
struct DecodeShared {
  static constexpr int kColumns = kWarps * kWarpColumns, kPadding = 8;  // so that rows begin in different banks
  alignas(16) bf16 k[kGrid][kHeadSize + kPadding];
  alignas(16) bf16 v[kGrid][kColumns + kPadding];
  alignas(16) bf16 q[kHeadSize];
  alignas(16) bf16 weights[kGrid];  // of the block's rows, as they meet v
  float power[kGrid + 1];           // lambda_n
  float o[kColumns];
  float other_squares;  // of the head's other part, in part 0
};

template <int kWarps>
class Decode {
  using Shared = DecodeShared<kWarps>;
  static constexpr int kColumns = Shared::kColumns, kThreads = 32 * kWarps, kSteps = kHeadSize / 16;
  static constexpr int kSides = kHeadSize / kColumns;

 public:
  __device__ Decode(const DecodeOperands& p, Shared& shared, int64_t sequence, int64_t head, int part, int64_t row)
      : p_(p),
        shared_(shared),
        head_(head),
        row_(row),
        slot_(p.in.slots(sequence)),
        part_(part),
        warp_(int(threadIdx.x) / 32),
        column_(warp_ * kWarpColumns + int(threadIdx.x) % 32 / 4 * 4),
        pair_(int(threadIdx.x) % 4 * 2) {}

  __device__ void run() const {
    const int held = int(p_.in.positions(row_) % kGrid);
    const uint4 piece = row_piece();
    fetch_tail(held);
    float4 state[kSteps][4];
    load_state(state);
    for (int n = int(threadIdx.x); n <= kGrid; n += kThreads) shared_.power[n] = expf(-(p_.in.decay(head_) * float(n)));
    add_row(piece, held);
    wait_for_copies();
    __syncthreads();

    weigh(held);
    float o[2][4] = {};
    multiply_state(o, state);
    __syncthreads();
    add_values(o, held);
    store(o);
    if (held + 1 == kGrid) replace_state();
  }

 private:
  // Column `column_` on of row 16 step + pair_ + {0, 1, 8, 9} of S.
  __device__ float4* state_at(int step, int i) const {
    return reinterpret_cast<float4*>(
        &p_.in.state(slot_, head_, 16 * step + pair_ + i % 2 + i / 2 * 8, part_ * kColumns + column_));
  }
  __device__ void load_state(float4 (&state)[kSteps][4]) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) state[step][i] = *state_at(step, i);
  }

  // k and v of rows [0, held), and zeros to the next multiple of 16.
  __device__ void fetch_tail(int held) const {
    const int rows = (held + 16) / 16 * 16;
    const bf16* const k = &p_.in.tail(slot_, head_, 0, 0, 0);
    const bf16* const v = &p_.in.tail(slot_, head_, 1, 0, part_ * kColumns);
    const auto fetch = [&](bf16* to, const bf16* from, int row) {
      if (row != held) copy_async(to, from + row * kHeadSize, row < held);
    };
    constexpr int kOfK = kHeadSize / 8, kOfV = kColumns / 8;  // pieces of 16 bytes
    for (int i = int(threadIdx.x); i < rows * kOfK; i += kThreads)
      fetch(&shared_.k[i / kOfK][i % kOfK * 8], k + i % kOfK * 8, i / kOfK);
    for (int i = int(threadIdx.x); i < rows * kOfV; i += kThreads)
      fetch(&shared_.v[i / kOfV][i % kOfV * 8], v + i % kOfV * 8, i / kOfV);
  }

  // Of the sequence's row: pieces of eight numbers of q, k and v, one a thread, raw.
  static constexpr int kPieces = kHeadSize / 8;
  __device__ bool has_piece() const { return threadIdx.x < 3 * kPieces; }
  __device__ int piece_part() const { return int(threadIdx.x) / kPieces; }
  __device__ int piece_column() const { return int(threadIdx.x) % kPieces * 8; }
  __device__ uint4 row_piece() const {
    if (!has_piece()) return {};
    return *reinterpret_cast<const uint4*>(&p_.in.qkv(row_, head_, piece_part(), piece_column()));
  }
  // The row becomes row `held` of its block, and of the tail unless it ends the block.
  __device__ void add_row(uint4 raw, int held) const {
    if (!has_piece()) return;
    const uint4 piece = activated(raw);
    const int part = piece_part(), column = piece_column();
    const bool mine = column / kColumns == part_;
    if (part == 0) put(shared_.q + column, piece);
    if (part == 1) put(shared_.k[held] + column, piece);
    if (part == 2 && mine) put(shared_.v[held] + column % kColumns, piece);
    if (part > 0 && mine && held + 1 < kGrid) put(&p_.in.tail(slot_, head_, part - 1, held, column), piece);
  }
  __device__ static void put(bf16* to, uint4 piece) { *reinterpret_cast<uint4*>(to) = piece; }

  // lambda_(held - j) q k_j of the block's rows j <= held, as they enter the product with v; zero behind.
  __device__ void weigh(int held) const {
    for (int first = 16 * warp_; first <= held; first += 16 * kWarps) {
      const Tile<bf16> keys{shared_.k[first], kHeadSize + Shared::kPadding};
      float scores[4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t rows[4];
        load_rows<Steps::inside>(rows, keys, 0, 16 * step);
        multiply_add_16(scores, rows, pair_at(shared_.q + 16 * step), pair_at(shared_.q + 16 * step + 8));
      }
      if (pair_ != 0) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int j = first + int(threadIdx.x) % 32 / 4 + 8 * half;
        shared_.weights[j] = bf16(j <= held ? scores[2 * half] * shared_.power[held - j] : 0.0F);
      }
    }
  }

  // The thread's pair of a row that is a product's every column.
  __device__ uint32_t pair_at(const bf16* row) const { return *reinterpret_cast<const uint32_t*>(row + pair_); }

  // o[m][0] and o[m][2]: of columns 2 m and 2 m + 1 of the thread's four; the others say the same.
  __device__ void multiply_state(float (&o)[2][4], const float4 (&state)[kSteps][4]) const {
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
  __device__ void add_values(float (&o)[2][4], int held) const {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[m][i] *= shared_.power[held + 1];
    for (int first = 0; first <= held; first += 16) {
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
    const float columns[] = {o[0][0], o[0][2], o[1][0], o[1][2]};
    if (pair_ == 0) {
      const uint2 pairs{bf16_pair(columns[0] + 0.0F, columns[1] + 0.0F),
                        bf16_pair(columns[2] + 0.0F, columns[3] + 0.0F)};
      *reinterpret_cast<uint2*>(&p_.o(row_, head_, part_ * kColumns + column_)) = pairs;
#pragma unroll
      for (int i = 0; i < 4; ++i) shared_.o[column_ + i] = columns[i];
    }
    if (p_.squares.data) store_squares();
  }

  // Four threads a half of the columns, then the halves.
  __device__ void store_squares() const {
    __syncthreads();
    float sum = 0;
    if (warp_ == 0) {
      const int half = int(threadIdx.x) % 32 / 4 % (kColumns / kHalf);
      const float* const quarter = shared_.o + half * kHalf + 4 * pair_;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float x = quarter[i / 8 * 32 + i % 8];
        sum = fmaf(x, x, sum);
      }
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      if (kSides == 1) sum += __shfl_xor_sync(0xffffffff, sum, 4);
    }
    if (kSides == 2) {
      if (part_ == 1 && threadIdx.x == 0) store_shared(&shared_.other_squares, 0, sum);
      cluster_arrive(), cluster_wait();
      sum += part_ == 0 && threadIdx.x == 0 ? shared_.other_squares : 0;
    }
    if (part_ == 0 && threadIdx.x == 0) p_.squares(head_, row_) = sum;
  }

  // S after the block's last row: lambda_64 S + k^T (v, aged).
  __device__ void replace_state() const {
    uint32_t aged[4][2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) load_values(aged[i], 16 * i), age(aged[i], 16 * i);
    const Tile<bf16> keys{shared_.k[0], kHeadSize + Shared::kPadding};
    const float fade = shared_.power[kGrid];
#pragma unroll
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
  Shared& shared_;
  const int64_t head_, row_, slot_;
  const int part_, warp_;
  const int column_;  // of the part: the first of the thread's four
  const int pair_;
};

}  // namespace fulgur::cuda::hopper

// The warp of lightning attention's decode that reads a block's rows (ops/cuda/lightning_decode.cuh).
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/lightning_decode.cuh"

namespace fulgur::cuda::hopper {

class RowReader {
  static constexpr int kPieces = kHeadSize / 8;  // of 16 bytes of a row

 public:
  __device__ RowReader(const DecodeOperands& p, DecodeShared& shared, const DecodeRow& at)
      : shared_(shared),
        lane_(int(threadIdx.x) % 32),
        above_(lane_ / kPieces),
        column_(lane_ % kPieces * 8),
        held_(at.held()),
        from_(p.qkv + at.row * p.qkv_row + at.head * p.qkv_head + column_),
        part_(p.qkv_part),
        decay_(p.decay[at.head]),
        tail_(at.tail(p) + column_),
        squares_(p.squares ? p.squares + at.head * p.squares_head + at.row : nullptr) {}

  // k, v, q, powers and weights in shared memory; meets the other warps as StateReader does.
  template <class Meet>
  __device__ void run(const Meet& meet) const {
    for (int row = above_; row < held_; row += 2) {
      copy_async(&shared_.k[row][column_], tail_ + row * kHeadSize, true);
      copy_async(&shared_.v[row][column_], tail_ + (kGrid + row) * kHeadSize, true);
    }
    for (int row = held_ + 1 + above_; row <= (held_ | 15); row += 2) put(&shared_.v[row][column_], {});
    for (int n = lane_; n <= kGrid; n += 32) shared_.power[n] = lambda(decay_, n);
    await_previous();
    const uint4 q_or_k = piece(above_), v = piece(2);
    add(activated(q_or_k), activated(v));
    meet();
    wait_for_copies();
    __syncwarp();
    weigh();
    meet();
  }

  // Four threads a half of the columns of o, then the halves.
  __device__ void store_squares() const {
    const float* const quarter = shared_.o + lane_ / 4 % 2 * kHalf + lane_ % 4 * 8;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(quarter + i / 2 * 32 + i % 2 * 4);
      sum = fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, fmaf(x.x, x.x, sum))));
    }
#pragma unroll
    for (int lanes = 1; lanes < 8; lanes *= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
    if (lane_ == 0) *squares_ = sum;
  }

 private:
  // Eight numbers of the sequence's row, before SiLU.
  __device__ uint4 piece(int part) const { return *reinterpret_cast<const uint4*>(from_ + part * part_); }

  // The row becomes row `held` of its block, and of the tail unless it ends the block. Half of the lanes have q, the
  // others k, all have v.
  __device__ void add(uint4 q_or_k, uint4 v) const {
    put((above_ == 0 ? shared_.q : shared_.k[held_]) + column_, q_or_k);
    if (above_ == 0) put(&shared_.v[held_][column_], v);
    if (held_ + 1 < kGrid) put(tail_ + ((above_ == 0 ? kGrid : 0) + held_) * kHeadSize, above_ == 0 ? v : q_or_k);
  }

  // lambda_(held - j) q k_j of the block's rows j <= held, as they enter the product with v; zero behind, whatever k
  // holds there.
  __device__ void weigh() const {
    float scores[4][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t early = pair_of(shared_.q + 16 * step), late = pair_of(shared_.q + 16 * step + 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t rows[4];
        load_rows<Steps::inside>(rows, Tile<bf16>{shared_.k[16 * i], kRowStride}, 0, 16 * step);
        multiply_add_16(scores[i], rows, early, late);
      }
    }
    const int first = lane_ / 4;
    float powers[8];  // of rows first, first + 8, ...
#pragma unroll
    for (int i = 0; i < 8; ++i) powers[i] = first + 8 * i <= held_ ? shared_.power[held_ - first - 8 * i] : 0;
    if (lane_ % 4 != 0) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float weight = first + 8 * i <= held_ ? scores[i / 2][i % 2 * 2] * powers[i] : 0;
      shared_.weights[first + 8 * i].bits = uint16_t(bf16_pair(weight, 0));
    }
  }

  DecodeShared& shared_;
  const int lane_, above_, column_;  // which of two rows, and the first of eight columns, the lane copies at a time
  const int held_;                   // rows of the block before the new one
  const bf16* const from_;           // the new row of q, at column_, and what is between q, k and v
  const int64_t part_;
  const float decay_;
  bf16* const tail_;  // of k, at column_
  float* const squares_;
};

}  // namespace fulgur::cuda::hopper

// Softmax attention of one row a sequence over pages: the keys in pieces, each by a thread block of its own, so that
// few long sequences fill a GPU. Pieces begin at multiples of kPiece positions of the sequence, whatever the batch; a
// second kernel adds them in order.
//
// A warp takes a page of 64 positions for up to eight heads of its KV head. Keys and values go from memory to the
// registers from which the matrix unit takes them: a product's sixteen steps may be any sixteen columns, its rows any
// columns of the values, as long as both sides agree.
#pragma once
#include <cmath>

#include "ops/cuda/softmax_tiles.cuh"
#include "ops/softmax_attention.h"

namespace fulgur::cuda {

inline constexpr int kPiecePages = 4, kPiece = kPiecePages * int(kGrid);  // positions
inline constexpr int kHeadsAtOnce = 8;

struct SoftmaxDecode {
  View<bf16, 3> o;
  View<const bf16, 3> q;
  View<const bf16, 5> pages;
  View<const int32_t, 2> table;
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  View<float, 2> log_sum_exp;
  // Of each row, head and piece: the largest scaled score, the total of the weights relative to it, and the weighed
  // values, not divided.
  View<float, 3> maximum, total;
  View<float, 4> sum;
  int kv_heads, group, chunks;  // heads of a KV head, and chunks of at most eight of them
  float scale;                  // from a product to a power of two
};

// The batch row of a sequence, -1 where it has none.
__device__ inline int64_t row_of(const SoftmaxDecode& op, int64_t sequence) {
  const int64_t row = op.row_begin(sequence);
  return op.row_begin(sequence + 1) > row ? row : -1;
}
__device__ inline int64_t pieces_of(const SoftmaxDecode& op, int64_t row) { return op.positions(row) / kPiece + 1; }

// What a warp makes of its page, and the block of its piece.
template <int kWidth>
struct DecodeShared {
  float maximum[kPiecePages][kHeadsAtOnce], total[kPiecePages][kHeadsAtOnce];
  float sum[kPiecePages][kHeadsAtOnce][kWidth];
};

template <int kWidth>
class PieceOfKeys {
  static constexpr int kParts = kWidth / 32;   // of a row of q or k: 32 columns, 8 a thread of four
  static constexpr int kHalves = kWidth / 64;  // of a row of v: 64 columns, 8 a thread of eight
  static constexpr int kTiles = int(kGrid) / 8;
  static constexpr int kThreads = 32 * kPiecePages;

 public:
  __device__ PieceOfKeys(const SoftmaxDecode& op, DecodeShared<kWidth>& shared, int64_t sequence, int64_t row,
                         int kv_head, int chunk)
      : op_(op),
        shared_(shared),
        sequence_(sequence),
        row_(row),
        kv_head_(kv_head),
        first_head_(kv_head * op.group + chunk * kHeadsAtOnce),
        heads_(min(op.group - chunk * kHeadsAtOnce, kHeadsAtOnce)),
        warp_(int(threadIdx.x) / 32),
        eighth_(int(threadIdx.x) % 32 / 4),
        fourth_(int(threadIdx.x) % 4) {
#pragma unroll
    for (int i = 0; i < kParts; ++i)
      q_[i] = eighth_ < heads_
                  ? *reinterpret_cast<const uint4*>(&op.q(row, first_head_ + eighth_, 32 * i + 8 * fourth_))
                  : uint4{};
  }

  __device__ void run(int64_t piece) const {
    const int64_t page = piece * kPiecePages + warp_;
    const int seen = int(min(op_.positions(row_) - page * kGrid + 1, kGrid));  // of its positions; none: not positive
    if (seen > 0) {
      const int64_t at = op_.table(sequence_, page);
      const bf16* const values = &op_.pages(at, 1, kv_head_, 2 * fourth_, 8 * eighth_);
      uint32_t weights[kTiles];
      float sums[kWidth / 16][4] = {};
      Values first, second;
      Keys keys;
      load(keys, &op_.pages(at, 0, kv_head_, eighth_, 8 * fourth_));
      load(first, values, seen);
      weigh(weights, keys, seen);
      load(second, values + kHalf * kWidth, seen - kHalf);
      add_values(sums, weights, first);
      add_values(sums, weights + kTiles / 2, second);
      keep(sums);
    } else if (fourth_ == 0) {
      shared_.maximum[warp_][eighth_] = -INFINITY, shared_.total[warp_][eighth_] = 0;
    }
    __syncthreads();
    store(piece);
    __syncthreads();
  }

 private:
  // What a thread takes of a page: of keys, row `eighth_` of every eight; of half of the values, of every sixteen rows
  // those from 2 fourth_ on and from 8 + 2 fourth_ on.
  static constexpr int kHalf = int(kGrid) / 2;
  using Keys = uint4[kTiles][kParts];
  using Values = uint4[kHalf / 16][4][kHalves];

  __device__ static void load(Keys& keys, const bf16* from) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < kParts; ++i)
        keys[tile][i] = *reinterpret_cast<const uint4*>(from + 8 * tile * kWidth + 32 * i);
  }
  // Zeros from row `seen` on: nobody promises what lies there.
  __device__ void load(Values& values, const bf16* from, int seen) const {
#pragma unroll
    for (int step = 0; step < kHalf / 16; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * step + i % 2 + i / 2 * 8;
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          values[step][i][h] = *reinterpret_cast<const uint4*>(from + row * kWidth + 64 * h);
          if (row + 2 * fourth_ >= seen) values[step][i][h] = {};
        }
      }
  }

  // Scores of all heads against the page's keys, and from them the weights as they meet the values: of a tile of eight
  // keys, head `eighth_` and the two keys from 2 fourth_ on.
  __device__ void weigh(uint32_t (&weights)[kTiles], const Keys& keys, int seen) const {
    float scores[kTiles][4] = {};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const uint4& k = keys[tile][i];
        const uint32_t early[] = {q_[i].x, 0, q_[i].y, 0}, late[] = {q_[i].z, 0, q_[i].w, 0};
        multiply_add_16(scores[tile], early, k.x, k.y), multiply_add_16(scores[tile], late, k.z, k.w);
      }
    const auto sees = [&](int tile, int i) { return 8 * tile + 2 * fourth_ + i < seen; };
    float highest = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (sees(tile, i)) highest = fmaxf(highest, scores[tile][i]);
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 1));
    highest = op_.scale * fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 2));
    float total = 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float weight[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        weight[i] = sees(tile, i) ? Exponential<bf16>::of(fmaf(op_.scale, scores[tile][i], -highest)) : 0;
        total += weight[i];
      }
      weights[tile] = bf16_pair(weight[0], weight[1]);
    }
    total += __shfl_xor_sync(0xffffffff, total, 1);
    total += __shfl_xor_sync(0xffffffff, total, 2);
    if (fourth_ == 0) shared_.maximum[warp_][eighth_] = highest, shared_.total[warp_][eighth_] = total;
  }

  // sums[4 h + p]: columns 64 h + 8 eighth_ + 2 p (+ 1 in the upper two) of heads 2 fourth_ and the next.
  __device__ static void add_values(float (&sums)[kWidth / 16][4], const uint32_t* weights, const Values& values) {
#pragma unroll
    for (int step = 0; step < kHalf / 16; ++step)
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        uint32_t rows[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4& v = values[step][i][h];
          rows[i][0] = v.x, rows[i][1] = v.y, rows[i][2] = v.z, rows[i][3] = v.w;
        }
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const auto first = [&](int i) { return (rows[i][p] & 0xffff) | rows[i + 1][p] << 16; };
          const auto second = [&](int i) { return rows[i][p] >> 16 | (rows[i + 1][p] & 0xffff0000); };
          const uint32_t turned[] = {first(0), second(0), first(2), second(2)};
          multiply_add_16(sums[4 * h + p], turned, weights[2 * step], weights[2 * step + 1]);
        }
      }
  }

  __device__ void keep(const float (&sums)[kWidth / 16][4]) const {
#pragma unroll
    for (int head = 0; head < 2; ++head)
#pragma unroll
      for (int h = 0; h < kHalves; ++h)
#pragma unroll
        for (int p = 0; p < 4; p += 2) {
          const float(&x)[4] = sums[4 * h + p], (&y)[4] = sums[4 * h + p + 1];
          *reinterpret_cast<float4*>(&shared_.sum[warp_][2 * fourth_ + head][64 * h + 8 * eighth_ + 2 * p]) = {
              x[head], x[2 + head], y[head], y[2 + head]};
        }
  }

  // The pages of the piece, in order.
  __device__ void store(int64_t piece) const {
    for (int i = int(threadIdx.x); i < heads_ * kWidth / 4; i += kThreads) {
      const int head = i / (kWidth / 4), column = i % (kWidth / 4) * 4;
      float highest = -INFINITY, total = 0;
#pragma unroll
      for (int page = 0; page < kPiecePages; ++page) highest = fmaxf(highest, shared_.maximum[page][head]);
      float4 sum{};
#pragma unroll
      for (int page = 0; page < kPiecePages; ++page) {
        if (shared_.total[page][head] == 0) continue;  // none of its positions is seen
        const float shrink = Exponential<bf16>::of(shared_.maximum[page][head] - highest);
        const float4 x = *reinterpret_cast<const float4*>(&shared_.sum[page][head][column]);
        total = fmaf(shared_.total[page][head], shrink, total);
        sum = {fmaf(x.x, shrink, sum.x), fmaf(x.y, shrink, sum.y), fmaf(x.z, shrink, sum.z), fmaf(x.w, shrink, sum.w)};
      }
      *reinterpret_cast<float4*>(&op_.sum(row_, first_head_ + head, piece, column)) = sum;
      if (column != 0) continue;
      op_.maximum(row_, first_head_ + head, piece) = highest, op_.total(row_, first_head_ + head, piece) = total;
    }
  }

  const SoftmaxDecode& op_;
  DecodeShared<kWidth>& shared_;
  const int64_t sequence_, row_;
  const int kv_head_, first_head_, heads_, warp_;
  const int eighth_, fourth_;  // the lane's place in a product: a head, key or column; a pair of steps
  uint4 q_[kParts];
};

template <int kWidth>
__global__ void __launch_bounds__(32 * kPiecePages, 2) decode_pieces(const __grid_constant__ SoftmaxDecode op) {
  const int kv_head = int(blockIdx.x) / op.chunks, chunk = int(blockIdx.x) % op.chunks;
  const int64_t sequence = blockIdx.y, row = row_of(op, sequence);
  if (row < 0) return;
  const int64_t pieces = pieces_of(op, row);
  int64_t piece = blockIdx.z;
  if (piece >= pieces) return;
  auto& shared = *reinterpret_cast<DecodeShared<kWidth>*>(dynamic_shared());
  const PieceOfKeys<kWidth> keys(op, shared, sequence, row, kv_head, chunk);
  for (; piece < pieces; piece += gridDim.z) keys.run(piece);
}

// Warps of a row and head; each adds every sixteenth piece, then their sums are added.
inline constexpr int kAdders = 16;

// A thread's columns of a sum over pieces, relative to the largest score so far.
template <int kColumns>
struct PieceSum {
  float maximum = -INFINITY, total = 0, sum[kColumns] = {};
  __device__ void add(float of_maximum, float of_total, const float (&of)[kColumns]) {
    if (of_total == 0) return;
    const float highest = fmaxf(maximum, of_maximum);
    const float shrink = Exponential<bf16>::of(maximum - highest), grow = Exponential<bf16>::of(of_maximum - highest);
    maximum = highest, total = fmaf(of_total, grow, total * shrink);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) sum[i] = fmaf(of[i], grow, sum[i] * shrink);
  }
};

template <int kWidth>
__global__ void __launch_bounds__(32 * kAdders) add_pieces(const __grid_constant__ SoftmaxDecode op) {
  constexpr int kColumns = kWidth / 32, kAhead = 8;
  __shared__ float maximum[kAdders], total[kAdders], sums[kAdders][kWidth];
  const int64_t head = blockIdx.x, row = row_of(op, blockIdx.y);
  if (row < 0) return;
  const int64_t pieces = pieces_of(op, row);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;

  PieceSum<kColumns> own;
  for (int64_t first = warp; first < pieces; first += kAhead * kAdders) {
    float maxima[kAhead], totals[kAhead], ahead[kAhead][kColumns];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t piece = first + i * kAdders;
      const bool there = piece < pieces;
      maxima[i] = there ? op.maximum(row, head, piece) : 0, totals[i] = there ? op.total(row, head, piece) : 0;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) ahead[i][c] = there ? op.sum(row, head, piece, lane + 32 * c) : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) own.add(maxima[i], totals[i], ahead[i]);
  }
  if (lane == 0) maximum[warp] = own.maximum, total[warp] = own.total;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) sums[warp][lane + 32 * c] = own.sum[c];
  __syncthreads();

  if (threadIdx.x >= kWidth) return;
  PieceSum<1> all;
#pragma unroll
  for (int i = 0; i < kAdders; ++i) all.add(maximum[i], total[i], {sums[i][threadIdx.x]});
  op.o(row, head, int64_t(threadIdx.x)) = bf16(all.sum[0] / all.total);
  if (op.log_sum_exp.data && threadIdx.x == 0)
    op.log_sum_exp(head, row) = Exponential<bf16>::natural_log(all.total, all.maximum);
}

}  // namespace fulgur::cuda

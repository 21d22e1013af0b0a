// Softmax attention of one row a sequence over pages on Hopper: the keys in pieces, each by a thread block of its own,
// so that few long sequences fill a GPU. Pieces begin at multiples of kPiece positions of the sequence, whatever the
// batch; a second kernel adds them (ops/cuda/softmax_decode_add.cuh).
//
// A warp takes a page of 64 positions for up to eight heads of its KV head. Half pages of keys and values stream into
// shared memory, three of them a warp, asked for by the warp itself as soon as it has read one; so a warp waits for no
// other until a piece ends.
//
// A product's sixteen steps may be any sixteen columns, its rows any columns of the values, as long as both sides
// agree: a thread takes 16 bytes at a time, and they are right as they come.
#pragma once
#include "ops/cuda/cluster_copy.cuh"
#include "ops/cuda/softmax_tiles.cuh"
#include "ops/softmax_attention.h"

namespace fulgur::cuda {

inline constexpr int kPiecePages = 4, kPiece = kPiecePages * int(kGrid);  // positions
inline constexpr int kHeadsAtOnce = 8;
inline constexpr int kPieceThreads = 32 * kPiecePages;

struct SoftmaxDecode {
  View<bf16, 3> o;
  View<const bf16, 3> q;
  View<const bf16, 5> pages;
  View<const int32_t, 2> table;
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  View<float, 2> log_sum_exp;
  // Of each row, head and piece: the largest scaled score and the total of the weights relative to it; the weighed
  // values, not divided.
  View<float2, 3> statistics;
  View<float, 4> sum;
  int chunks;   // of at most kHeadsAtOnce heads that a KV head's are cut into
  float scale;  // from a product to a power of two

  __device__ int group() const { return int(o.shape[1] / pages.shape[2]); }
  // The batch row of a sequence, -1 where it has none; how many pieces its keys are.
  __device__ int64_t row_of(int64_t sequence) const {
    const int64_t row = row_begin(sequence);
    return row_begin(sequence + 1) > row ? row : -1;
  }
  __device__ int pieces_of(int64_t row) const { return int(positions(row) / kPiece) + 1; }
};

template <int kWidth>
struct DecodeShared {
  static constexpr int kRows = int(kGrid) / 2, kSlots = 3;
  alignas(128) bf16 half_page[kPiecePages][kSlots][kRows][kWidth];
  float sum[kPiecePages][kHeadsAtOnce][kWidth];
  float maximum[kPiecePages][kHeadsAtOnce], total[kPiecePages][kHeadsAtOnce];
  uint64_t there[kPiecePages][kSlots];
};

// The half pages of a warp, in the order in which they are asked for and taken.
template <int kWidth>
class HalfPages {
  using Shared = DecodeShared<kWidth>;
  static constexpr int kBytes = Shared::kRows * kWidth * int(sizeof(bf16));

 public:
  __device__ HalfPages(Shared& shared, int warp)
      : slots_(&shared.half_page[warp][0][0][0]), there_(shared_address(shared.there[warp])) {
    if (threadIdx.x % 32 == 0) {
      for (int i = 0; i < Shared::kSlots; ++i) barrier_init(there_ + 8 * i, 1);
      barriers_are_ready();
    }
    __syncwarp();
  }
  __device__ void ask(const bf16* from) {
    if (threadIdx.x % 32 == 0) {
      barrier_arrive_expecting(there_ + 8 * asked_, kBytes);
      copy_here(shared_address(slot(asked_)), from, kBytes, there_ + 8 * asked_);
    }
    if (++asked_ == Shared::kSlots) asked_ = 0;
  }
  // The next one, when it is there; the warp says when it has read it.
  __device__ const bf16* take() const {
    barrier_wait_for_copies(there_ + 8 * taken_, parity_);
    return slot(taken_);
  }
  __device__ void have_read() {
    __syncwarp();
    if (++taken_ == Shared::kSlots) taken_ = 0, parity_ ^= 1;
  }

 private:
  __device__ bf16* slot(int i) const { return slots_ + i * Shared::kRows * kWidth; }

  bf16* const slots_;
  const uint32_t there_;
  int asked_ = 0, taken_ = 0;
  uint32_t parity_ = 0;
};

// A thread block's share of a sequence and KV head: pieces first, first + stride, ...
template <int kWidth>
class PiecesOfKeys {
  using Shared = DecodeShared<kWidth>;
  static constexpr int kParts = kWidth / 32;   // of a row of q or k: 32 columns, 8 a thread of four
  static constexpr int kHalves = kWidth / 64;  // of a row of v: 64 columns, 8 a thread of eight
  static constexpr int kRows = Shared::kRows, kTiles = kRows / 8;
  using Scores = float[2 * kTiles][4];
  using Weights = uint32_t[2 * kTiles];
  using PageSums = float[kWidth / 16][4];

 public:
  __device__ PiecesOfKeys(const SoftmaxDecode& op, Shared& shared, int64_t sequence, int64_t row, int kv_head,
                          int chunk)
      : op_(op),
        shared_(shared),
        sequence_(sequence),
        row_(row),
        kv_head_(kv_head),
        first_head_(kv_head * op.group() + chunk * kHeadsAtOnce),
        heads_(min(op.group() - chunk * kHeadsAtOnce, kHeadsAtOnce)),
        position_(op.positions(row)),
        warp_(int(threadIdx.x) / 32),
        eighth_(int(threadIdx.x) % 32 / 4),
        fourth_(int(threadIdx.x) % 4),
        halves_(shared, warp_) {
    const bf16* const q = &op.q(row, first_head_ + min(eighth_, heads_ - 1), 8 * fourth_);
#pragma unroll
    for (int i = 0; i < kParts; ++i) q_[i] = *reinterpret_cast<const uint4*>(q + 32 * i);
  }

  __device__ void run(int first, int stride, int pieces) {
    const bf16* page = page_of(first, pieces);
    if (page)
      for (int half = 0; half < Shared::kSlots; ++half) halves_.ask(half_of(page, half));
    for (int piece = first; piece < pieces; piece += stride) {
      const bf16* const next = page_of(piece + stride, pieces);
      if (page) add_page(page, next, seen_of(piece));
      else if (fourth_ == 0) shared_.maximum[warp_][eighth_] = -INFINITY, shared_.total[warp_][eighth_] = 0;
      page = next;
      __syncthreads();
      store(piece);
      __syncthreads();
    }
  }

 private:
  // Of the warp's page of a piece: its positions that are seen; none: not positive.
  __device__ int seen_of(int piece) const {
    return int(min(position_ + 1 - (int64_t(piece) * kPiecePages + warp_) * kGrid, kGrid));
  }
  // Where it is; null where nothing of it is seen.
  __device__ const bf16* page_of(int piece, int pieces) const {
    if (piece >= pieces || seen_of(piece) <= 0) return nullptr;
    return &op_.pages(op_.table(sequence_, int64_t(piece) * kPiecePages + warp_), 0, kv_head_, 0, 0);
  }
  // Keys, keys, values, values.
  __device__ const bf16* half_of(const bf16* page, int half) const {
    return page + half / 2 * op_.pages.stride[1] + half % 2 * kRows * kWidth;
  }

  __device__ void add_page(const bf16* page, const bf16* next, int seen) {
    Scores scores = {};
    Weights weights;
    PageSums sums = {};
    const auto read = [&](int half) {  // and asks for the one that takes its place
      halves_.have_read();
      const int later = half + Shared::kSlots;
      if (later < 4) halves_.ask(half_of(page, later));
      else if (next) halves_.ask(half_of(next, later - 4));
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) score(scores, half, halves_.take()), read(half);
    weigh(weights, scores, seen);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      add_values(sums, weights, half, halves_.take(), seen - half * kRows), read(2 + half);
    keep(sums);
  }

  // Of a tile of eight keys: all heads against them.
  __device__ void score(Scores& scores, int half, const bf16* keys) const {
    const bf16* const from = keys + eighth_ * kWidth + 8 * fourth_;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const uint4 k = *reinterpret_cast<const uint4*>(from + 8 * tile * kWidth + 32 * i);
        const uint32_t early[] = {q_[i].x, 0, q_[i].y, 0}, late[] = {q_[i].z, 0, q_[i].w, 0};
        float(&to)[4] = scores[half * kTiles + tile];
        multiply_add_16(to, early, k.x, k.y), multiply_add_16(to, late, k.z, k.w);
      }
  }

  // The weights as they meet the values: of a tile, head `eighth_` and the two keys from 2 fourth_ on.
  __device__ void weigh(Weights& weights, const Scores& scores, int seen) const {
    const auto sees = [&](int tile, int i) { return 8 * tile + 2 * fourth_ + i < seen; };
    float highest = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < 2 * kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (sees(tile, i)) highest = fmaxf(highest, scores[tile][i]);
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 1));
    highest = op_.scale * fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 2));
    float total = 0;
#pragma unroll
    for (int tile = 0; tile < 2 * kTiles; ++tile) {
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

  // sums[4 h + p]: columns 64 h + 8 eighth_ + 2 p (+ 1 in the upper two) of heads 2 fourth_ and the next. Values from
  // row `seen` on are zero: nobody promises what lies there.
  __device__ void add_values(PageSums& sums, const Weights& weights, int half, const bf16* values, int seen) const {
    const bf16* const from = values + 2 * fourth_ * kWidth + 8 * eighth_;
#pragma unroll
    for (int step = 0; step < kRows / 16; ++step)
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        uint32_t rows[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 16 * step + i % 2 + i / 2 * 8;
          uint4 v = *reinterpret_cast<const uint4*>(from + row * kWidth + 64 * h);
          if (row + 2 * fourth_ >= seen) v = {};
          rows[i][0] = v.x, rows[i][1] = v.y, rows[i][2] = v.z, rows[i][3] = v.w;
        }
        const int tile = half * kTiles + 2 * step;
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const auto first = [&](int i) { return (rows[i][p] & 0xffff) | rows[i + 1][p] << 16; };
          const auto second = [&](int i) { return rows[i][p] >> 16 | (rows[i + 1][p] & 0xffff0000); };
          const uint32_t turned[] = {first(0), second(0), first(2), second(2)};
          multiply_add_16(sums[4 * h + p], turned, weights[tile], weights[tile + 1]);
        }
      }
  }

  __device__ void keep(const PageSums& sums) const {
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
  __device__ void store(int piece) const {
    for (int i = int(threadIdx.x); i < heads_ * kWidth / 4; i += kPieceThreads) {
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
      if (column == 0) op_.statistics(row_, first_head_ + head, piece) = {highest, total};
    }
  }

  const SoftmaxDecode& op_;
  Shared& shared_;
  const int64_t sequence_, row_;
  const int kv_head_, first_head_, heads_;
  const int64_t position_;
  const int warp_;
  const int eighth_, fourth_;  // the lane's place in a product: a head, key or column; a pair of steps
  HalfPages<kWidth> halves_;
  uint4 q_[kParts];  // of head eighth_, the last where there are fewer
};

template <int kWidth>
__global__ void __launch_bounds__(kPieceThreads, 2) decode_pieces(const __grid_constant__ SoftmaxDecode op) {
  follow();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // others have no such copies
  const int kv_head = int(blockIdx.x) / op.chunks, chunk = int(blockIdx.x) % op.chunks;
  const int64_t sequence = blockIdx.y, row = op.row_of(sequence);
  if (row < 0 || int(blockIdx.z) >= op.pieces_of(row)) return;
  auto& shared = *reinterpret_cast<DecodeShared<kWidth>*>(dynamic_shared());
  PiecesOfKeys<kWidth>(op, shared, sequence, row, kv_head, chunk)
      .run(int(blockIdx.z), int(gridDim.z), op.pieces_of(row));
#endif
}

}  // namespace fulgur::cuda

// Rows with many takers (a text's commonest tokens): their takers are found in order, cut into pieces of kPieceTakers,
// and each piece is summed by itself, from zero. Who wants the row's sum adds its pieces, ascending.
#pragma once
#include "ops/cuda/takers.cuh"

namespace fulgur::cuda {

inline constexpr int kPieceTakers = 64, kScanned = 16;  // kScanned: indices that a lane looks at in one go

struct Pieces {
  int32_t* takers;         // [taken]: those of long rows, each row's ascending
  int32_t *begin, *count;  // [most]: of a piece, within `takers`
  int32_t *takers_used, *pieces_used;
  float* sums;  // [most, pitch]
  int64_t pitch;
};

// A block a long row: space for its takers and pieces, then all indices in order, those of one warp after another's.
// The first of the row's listed takers becomes the number of its first piece.
static __global__ void __launch_bounds__(kThreads) cut_long_lists(TakerLists t, Pieces p) {
  __shared__ int32_t found_by[2][kThreads / 32], space, first_piece;
  if (block_index() >= *t.longer_rows) return;
  const int32_t row = t.longer[block_index()], count = t.count[row], pieces = (count + kPieceTakers - 1) / kPieceTakers;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  if (threadIdx.x == 0) {
    space = atomicAdd(p.takers_used, count), first_piece = atomicAdd(p.pieces_used, pieces);
    t.listed[int64_t(row) * kListed] = first_piece;
  }
  __syncthreads();
  for (int32_t i = int32_t(threadIdx.x); i < pieces; i += kThreads) {
    p.begin[first_piece + i] = space + i * kPieceTakers;
    p.count[first_piece + i] = i + 1 < pieces ? kPieceTakers : count - i * kPieceTakers;
  }
  int32_t at = space;
  int turn = 0;
  for (int64_t first = 0; first < t.taken; first += kThreads * kScanned, turn = 1 - turn) {
    const int64_t mine = first + warp * 32 * kScanned + lane;
    uint32_t lanes[kScanned];
    int32_t found = 0;
#pragma unroll
    for (int i = 0; i < kScanned; ++i) {
      const int64_t place = mine + 32 * i;
      lanes[i] = __ballot_sync(kAllLanes, place < t.taken && t.indices[place] == row);
      found += __popc(lanes[i]);
    }
    if (lane == 0) found_by[turn][warp] = found;
    __syncthreads();
    int32_t to = at;
    for (int w = 0; w < kThreads / 32; ++w) at += found_by[turn][w], to += w < warp ? found_by[turn][w] : 0;
#pragma unroll
    for (int i = 0; i < kScanned; ++i) {
      if (lanes[i] >> lane & 1) p.takers[to + __popc(lanes[i] & ((1u << lane) - 1))] = int32_t(mine + 32 * i);
      to += __popc(lanes[i]);
    }
  }
}

template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) sum_pieces(Rows<const T> x, Pieces p) {
  const int64_t piece = row_of_thread();
  if (piece >= *p.pieces_used) return;
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < x.width; c += int64_t(blockDim.x) * kChunk) {
    float sum[1][kChunk] = {};
    add_listed<kAligned, 8>(sum, x, p.takers + p.begin[piece], p.count[piece], c, 0);
    store<true>(p.sums + piece * p.pitch + c, sum[0], kChunk);
  }
}

// The pieces of all rows with more takers than are listed; in scratch, for as long as this lives.
class LongLists {
 public:
  LongLists(Stream& stream, const char* name, const TakerLists& takers, int64_t width)
      : most_(takers.taken / kListed),  // a row of more than kListed takers has a piece for at least as many of them
        pitch_(divide_up(width, kChunk) * kChunk),
        scratch_(stream, size_t(most_ * pitch_ + 2 * most_ + takers.taken) * sizeof(int32_t)) {
    int32_t* const at = scratch_.as<int32_t>();  // the sums first, for they are moved 16 bytes at a time
    int32_t* const rest = at + most_ * pitch_;
    pieces = {.takers = rest + 2 * most_,
              .begin = rest,
              .count = rest + most_,
              .takers_used = takers.counters,
              .pieces_used = takers.counters + 1,
              .sums = scratch_.as<float>(),
              .pitch = pitch_};
    launch_blocks(stream, name, takers.taken / (kListed + 1), dim3(kThreads), cut_long_lists, takers, pieces);
  }
  template <bool kAligned, class T>
  void sum(Stream& stream, const char* name, Rows<const T> x) const {
    const RowBlocks blocks(most_, divide_up(x.width, kChunk));
    launch_blocks(stream, name, blocks.blocks, blocks.threads, sum_pieces<kAligned, T>, x, pieces);
  }
  Pieces pieces;

 private:
  const int64_t most_, pitch_;
  Scratch scratch_;
};

}  // namespace fulgur::cuda

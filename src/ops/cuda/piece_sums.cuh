// Sums over the rows of a matrix, column by column, in an order that its rows alone decide: pieces of kPieceRows rows,
// rows ascending from zero within each; then the pieces, ascending, onto the value that is there. So calls that are cut
// at multiples of kPieceRows rows leave the same bits as one.
#pragma once
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {

inline constexpr int kPieceRows = 32;

// f32 [pieces, pitch]: what each piece's rows add up to.
class PieceSums {
 public:
  PieceSums(Stream& stream, int64_t rows, int64_t width)
      : pieces(divide_up(rows, kPieceRows)),
        pitch(divide_up(width, kChunk) * kChunk),
        scratch_(stream, size_t(pieces * pitch) * sizeof(float) + 16) {}

  const int64_t pieces, pitch;  // a piece's sums begin at a multiple of 16 bytes, and its last chunk is whole
  float* data() const { return scratch_.as<float>(); }
  void add_to(Stream& stream, const char* name, float* sums, int64_t width) const;

 private:
  Scratch scratch_;
};

// Blocks of 32 columns, a lane each. Every warp fetches its pieces of a round; they are added by one warp after
// another, and who has had its turn fetches those of the next round.
inline constexpr int kAddingWarps = 8, kFetchedPieces = 64;
static __global__ void __launch_bounds__(32 * kAddingWarps)
    add_pieces(float* sums, const float* partial, int64_t pieces, int64_t pitch, int64_t width) {
  __shared__ float upto[32];
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t column = block_index() * 32 + lane, inside = column < width ? column : width - 1;
  const auto count_of = [&](int64_t turn) {
    const int64_t left = pieces - turn * kFetchedPieces;
    return int(left < kFetchedPieces ? left : kFetchedPieces);
  };
  float part[kFetchedPieces];
  const auto fetch_pieces = [&](int64_t turn) {
    const float* at = partial + turn * kFetchedPieces * pitch + inside;
    const int count = count_of(turn);
#pragma unroll
    for (int i = 0; i < kFetchedPieces; ++i, at += pitch)
      if (i < count) part[i] = *at;
  };
  fetch_pieces(warp);
  if (warp == 0) upto[lane] = sums[inside];
  __syncthreads();
  for (int64_t turn = 0; count_of(turn) > 0; ++turn) {
    const bool mine = turn % kAddingWarps == warp;
    if (mine) {
      const int count = count_of(turn);
      float sum = upto[lane];
#pragma unroll
      for (int i = 0; i < kFetchedPieces; ++i)
        if (i < count) sum += part[i];
      upto[lane] = sum;
    }
    __syncthreads();
    if (mine) fetch_pieces(turn + kAddingWarps);
  }
  if (warp == 0 && column < width) sums[column] = upto[lane];
}

inline void PieceSums::add_to(Stream& stream, const char* name, float* sums, int64_t width) const {
  launch_blocks(stream, name, divide_up(width, 32), dim3(32 * kAddingWarps), add_pieces, sums,
                static_cast<const float*>(data()), pieces, pitch, width);
}

}  // namespace fulgur::cuda

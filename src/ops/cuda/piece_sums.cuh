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
  const int64_t column = block_index() * 32 + lane;
  float part[kFetchedPieces];
  const auto fetch_pieces = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kFetchedPieces; ++i)
      if (first + i < pieces && column < width) part[i] = partial[(first + i) * pitch + column];
  };
  fetch_pieces(warp * kFetchedPieces);
  if (warp == 0) upto[lane] = column < width ? sums[column] : 0;
  __syncthreads();
  for (int64_t first = 0; first < pieces; first += kFetchedPieces) {
    if (first / kFetchedPieces % kAddingWarps == warp) {
      float sum = upto[lane];
#pragma unroll
      for (int i = 0; i < kFetchedPieces; ++i)
        if (first + i < pieces) sum += part[i];
      upto[lane] = sum;
      fetch_pieces(first + kAddingWarps * kFetchedPieces);
    }
    __syncthreads();
  }
  if (warp == 0 && column < width) sums[column] = upto[lane];
}

inline void PieceSums::add_to(Stream& stream, const char* name, float* sums, int64_t width) const {
  launch_blocks(stream, name, divide_up(width, 32), dim3(32 * kAddingWarps), add_pieces, sums,
                static_cast<const float*>(data()), pieces, pitch, width);
}

}  // namespace fulgur::cuda

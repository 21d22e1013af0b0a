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

// Blocks of 32 columns, a lane each: all warps bring pieces into shared memory, those of the next round while the first
// warp adds this round's.
inline constexpr int kAddingWarps = 32, kBrought = 8;  // pieces of a warp and round
static __global__ void __launch_bounds__(32 * kAddingWarps)
    add_pieces(float* sums, const float* partial, int64_t pieces, int64_t pitch, int64_t width) {
  constexpr int kRound = kAddingWarps * kBrought;
  __shared__ float tile[kRound][32];
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t column = block_index() * 32 + lane;
  const bool inside = column < width, adds = warp == 0 && inside;
  float brought[kBrought] = {}, sum = adds ? sums[column] : 0;
  const auto bring = [&](int64_t first) {
#pragma unroll
    for (int b = 0; b < kBrought; ++b)
      if (const int64_t piece = first + b * kAddingWarps + warp; piece < pieces && inside)
        brought[b] = partial[piece * pitch + column];
  };
  bring(0);
  for (int64_t first = 0; first < pieces; first += kRound) {
    const int here = int(pieces - first < kRound ? pieces - first : kRound);
#pragma unroll
    for (int b = 0; b < kBrought; ++b) tile[b * kAddingWarps + warp][lane] = brought[b];
    __syncthreads();
    bring(first + kRound);
    if (adds) {
#pragma unroll 32
      for (int i = 0; i < here; ++i) sum += tile[i][lane];
    }
    __syncthreads();
  }
  if (adds) sums[column] = sum;
}

inline void PieceSums::add_to(Stream& stream, const char* name, float* sums, int64_t width) const {
  launch_blocks(stream, name, divide_up(width, 32), dim3(32 * kAddingWarps), add_pieces, sums,
                static_cast<const float*>(data()), pieces, pitch, width);
}

}  // namespace fulgur::cuda

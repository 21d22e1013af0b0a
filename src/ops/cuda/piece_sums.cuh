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

// Blocks of 32 columns, a lane each: all warps bring pieces into shared memory, the first adds them.
inline constexpr int kTilePieces = 128;
static __global__ void __launch_bounds__(1024)
    add_pieces(float* sums, const float* partial, int64_t pieces, int64_t pitch, int64_t width) {
  __shared__ float tile[kTilePieces][32];
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t column = block_index() * 32 + lane;
  const bool adds = warp == 0 && column < width;
  float sum = adds ? sums[column] : 0;
  for (int64_t first = 0; first < pieces; first += kTilePieces) {
    const int here = int(pieces - first < kTilePieces ? pieces - first : kTilePieces);
#pragma unroll
    for (int i = 0; i < kTilePieces; i += 32)
      if (warp + i < here && column < width) tile[warp + i][lane] = partial[(first + warp + i) * pitch + column];
    __syncthreads();
    if (adds)
      for (int i = 0; i < here; ++i) sum += tile[i][lane];
    __syncthreads();
  }
  if (adds) sums[column] = sum;
}

inline void PieceSums::add_to(Stream& stream, const char* name, float* sums, int64_t width) const {
  launch_blocks(stream, name, divide_up(width, 32), dim3(1024), add_pieces, sums, static_cast<const float*>(data()),
                pieces, pitch, width);
}

}  // namespace fulgur::cuda

// Tiles in shared memory as Hopper's products read them.
//
// A tile is rows of 128 bytes (64 bf16), eight rows to 1,024 bytes; the 16-byte piece c of row r lies at piece c ^ (r %
// 8) (the 128-byte swizzle), so rows and columns are both read without bank conflicts. Tiles begin at multiples of
// 1,024 bytes. Where a product's k runs along a tile's rows the operand is "K-major"; where it runs down them, it is
// turned over.
#pragma once

namespace fulgur::cuda {

inline constexpr int kTileRowBytes = 128;  // 64 elements
inline constexpr int kTileBytes = 64 * kTileRowBytes;

// Byte offset of element (row, column) in a tile.
__device__ inline int tile_offset(int row, int column) {
  return row * kTileRowBytes + (((column >> 3) ^ (row & 7)) << 4) + ((column & 7) << 1);
}

}  // namespace fulgur::cuda

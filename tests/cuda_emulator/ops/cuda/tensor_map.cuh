// Stands in for src/ops/cuda/tensor_map.cuh (emulator.h): a box is copied row by row, zeros where its matrix ends.
#pragma once
#include "ops/cuda/boxed_matrices.h"
#include "ops/cuda/cluster_copy.cuh"

namespace fulgur::cuda {

using TensorMap = BoxedMatrices;

inline TensorMap tensor_map(const BoxedMatrices& m) {
  if (uintptr_t(m.data) % 16 != 0 || m.row_stride * m.element_bytes % 16 != 0 ||
      (m.count > 1 && m.apart * m.element_bytes % 16 != 0) || m.columns <= 0 || m.rows <= 0 || m.count <= 0 ||
      m.box_rows > 256)
    emulator::complain("matrices that the copy engine does not take");
  return m;
}

inline void write_box(std::byte* to, const TensorMap& map, int column, int row, int matrix) {
  const auto* const from = static_cast<const std::byte*>(map.data);
  const int bytes = map.element_bytes, columns = kTileRowBytes / bytes;
  for (int i = 0; i < map.box_rows * columns; ++i) {
    const int64_t r = row + i / columns, c = column + i % columns;
    const bool there = r >= 0 && r < map.rows && c >= 0 && c < map.columns && matrix >= 0 && matrix < map.count;
    std::byte* const at = to + tile_offset(i / columns, i % columns * bytes / 2) + i % columns * bytes % 2;
    std::memset(at, 0, size_t(bytes));
    if (there) std::memcpy(at, from + (matrix * map.apart + r * map.row_stride + c) * bytes, size_t(bytes));
  }
}
inline void copy_box_to(uint16_t blocks, uint32_t to, const TensorMap& map, int column, int row, int matrix,
                        uint32_t barrier) {
  if (to % 1024 != 0) emulator::complain("a box that does not begin as a tile does");
  for (uint32_t rank = 0; rank < 16; ++rank)
    if (blocks >> rank & 1)
      copies_on_their_way().push_back(
          {[=, at = place_of(address_in(rank, to))] { write_box(at, map, column, row, matrix); },
           map.box_rows * kTileRowBytes, reinterpret_cast<SharedBarrier*>(place_of(address_in(rank, barrier)))});
}
inline void copy_box(uint32_t to, const TensorMap& map, int column, int row, int matrix, uint32_t barrier) {
  if (to % 1024 != 0) emulator::complain("a box that does not begin as a tile does");
  copies_on_their_way().push_back(
      {[=, at = emulator::shared_memory() + to] { write_box(at, map, column, row, matrix); },
       map.box_rows * kTileRowBytes, &barrier_at(barrier)});
}
inline void prefetch_map(const TensorMap&) {}

}  // namespace fulgur::cuda

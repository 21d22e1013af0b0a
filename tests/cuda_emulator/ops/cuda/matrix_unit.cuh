// Stands in for src/ops/cuda/matrix_unit.cuh (emulator.h): lanes exchange their fragments, sums of a product are f64.
#pragma once
#include "base/tensor.h"
#include "tests/cuda_emulator/cuda_runtime.h"

namespace fulgur::cuda {

inline uint32_t shared_address(const void* at) {
  return uint32_t(static_cast<const std::byte*>(at) - emulator::shared_memory());
}
inline uint32_t bf16_pair(float first, float second) { return bf16(first).bits | uint32_t(bf16(second).bits) << 16; }
inline float number_of(uint32_t pair, int which) { return __uint_as_float(which ? pair & 0xffff0000 : pair << 16); }

inline void load_matrices(uint32_t (&to)[4], const bf16* row, bool transposed) {
  if (uintptr_t(row) % 16 != 0) emulator::complain("an unaligned row of a matrix");
  const int lane = lane_number();
  std::memcpy(emulator::warp_slot(unsigned(lane)), &row, sizeof row);
  emulator::warp_barrier();
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int half = 0; half < 2; ++half) {
      const int outer = lane / 4, inner = lane % 4 * 2 + half;
      const bf16* from;
      std::memcpy(&from, emulator::warp_slot(unsigned(8 * i + (transposed ? inner : outer))), sizeof from);
      pair[half] = from[transposed ? outer : inner].bits;
    }
    to[i] = pair[0] | uint32_t(pair[1]) << 16;
  }
  emulator::warp_barrier();
}
inline void load_matrices(uint32_t (&to)[4], const bf16* row) { load_matrices(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const bf16* row) { load_matrices(to, row, true); }

inline void store_matrices(const uint32_t (&from)[4], bf16* row) {
  if (uintptr_t(row) % 16 != 0) emulator::complain("an unaligned row of a matrix");
  const int lane = lane_number();
  std::memcpy(emulator::warp_slot(unsigned(lane)), &row, sizeof row);
  emulator::warp_barrier();
  for (int i = 0; i < 4; ++i) {
    bf16* to;
    std::memcpy(&to, emulator::warp_slot(unsigned(8 * i + lane / 4)), sizeof to);
    std::memcpy(static_cast<void*>(to + lane % 4 * 2), &from[i], sizeof from[i]);
  }
  emulator::warp_barrier();
}

// Fragment a of a warp's rows of 16 steps, as its lanes hold it: element (row, step) of 16 by 16.
inline float element_of_rows(int row, int step) {
  uint32_t words[4];
  std::memcpy(words, emulator::warp_slot(unsigned(row % 8 * 4 + step % 8 / 2)), sizeof words);
  return number_of(words[row / 8 + step / 8 * 2], step % 2);
}

inline void multiply_add_16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first, uint32_t b_second) {
  const int lane = lane_number();
  const uint32_t words[] = {a[0], a[1], a[2], a[3], b_first, b_second};
  std::memcpy(emulator::warp_slot(unsigned(lane)), words, sizeof words);
  emulator::warp_barrier();
  double rows[2][16], columns[2][16];  // the lane's two of each, as the lanes of their fragments hold them
  for (int pair = 0; pair < 4; ++pair) {
    uint32_t of_rows[6], of_columns[2][6];
    std::memcpy(of_rows, emulator::warp_slot(unsigned(lane / 4 * 4 + pair)), sizeof of_rows);
    for (int i = 0; i < 2; ++i)
      std::memcpy(of_columns[i], emulator::warp_slot(unsigned((lane % 4 * 2 + i) * 4 + pair)), sizeof of_columns[i]);
    for (int i = 0; i < 2; ++i)
      for (int step = 2 * pair; step < 2 * pair + 2; ++step) {
        rows[i][step] = number_of(of_rows[i], step % 2), rows[i][step + 8] = number_of(of_rows[i + 2], step % 2);
        columns[i][step] = number_of(of_columns[i][4], step % 2);
        columns[i][step + 8] = number_of(of_columns[i][5], step % 2);
      }
  }
  for (int i = 0; i < 4; ++i) {
    double sum = 0;
    for (int step = 0; step < 16; ++step) sum += rows[i / 2][step] * columns[i % 2][step];
    sums[i] = float(double(sums[i]) + sum);
  }
  emulator::warp_barrier();
}

}  // namespace fulgur::cuda

// A warp's instructions on bf16 matrices of 16 rows (PTX ISA, "Warp Level Matrix Instructions"): fragments from shared
// memory, and a product of 16 steps. Lane l of a product holds of its 16 x 8 sums: rows l / 4 and l / 4 + 8, columns
// 2 (l % 4) and the next.
#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace fulgur::cuda {

__device__ inline uint32_t shared_address(const void* at) { return uint32_t(__cvta_generic_to_shared(at)); }

// Four 8 x 8 matrices, whose rows of 16 bytes lanes 8 i ... 8 i + 7 point to for matrix i. Lane l gets of each: row
// l / 4, columns 2 (l % 4) and the next.
__device__ inline void load_matrices(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same of the transposed matrices: lane l gets rows 2 (l % 4) and the next, column l / 4.
__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// The way back of load_matrices.
__device__ inline void store_matrices(const uint32_t (&from)[4], bf16* row) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%4], {%0, %1, %2, %3};" ::"r"(from[0]), "r"(from[1]),
               "r"(from[2]), "r"(from[3]), "r"(shared_address(row))
               : "memory");
}

// sums += a b: a [16, 16], rows outside; b [16, 8] as its two fragments of 8 steps.
__device__ inline void multiply_add_16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b_first, uint32_t b_second) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_first), "r"(b_second));
}

// Two numbers rounded to nearest even, the first in the low half.
__device__ inline uint32_t bf16_pair(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

}  // namespace fulgur::cuda

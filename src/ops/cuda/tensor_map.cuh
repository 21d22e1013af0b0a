// Boxes of matrices of bf16 or of bytes, copied into tiles of shared memory (ops/cuda/swizzled_tile.cuh) by the copy
// engine, which leaves zeros where a box reaches beyond its matrix (CUDA driver API, "Tensor Map Object Management").
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include "device/launch.cuh"
#include "ops/cuda/boxed_matrices.h"

namespace fulgur::cuda {

using TensorMap = CUtensorMap;

inline TensorMap tensor_map(const BoxedMatrices& m) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
          "cudaGetDriverEntryPointByVersion");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found),
          "cudaGetDriverEntryPoint");
#endif
    if (found != cudaDriverEntryPointSuccess)
      fail(ErrorKind::device, "the driver has no cuTensorMapEncodeTiled: install one for CUDA 12 or later");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  const cuuint64_t sizes[] = {cuuint64_t(m.columns), cuuint64_t(m.rows), cuuint64_t(m.count)};
  const int64_t apart = m.count > 1 ? m.apart : m.row_stride;
  const cuuint64_t strides[] = {cuuint64_t(m.row_stride * m.element_bytes), cuuint64_t(apart * m.element_bytes)};
  const cuuint32_t box[] = {cuuint32_t(kBoxColumns * 2 / m.element_bytes), cuuint32_t(m.box_rows), 1},
                   steps[] = {1, 1, 1};
  const CUtensorMapDataType type =
      m.element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  TensorMap map;
  const CUresult status =
      encode(&map, type, 3, const_cast<void*>(m.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  expect(status == CUDA_SUCCESS, "the driver takes a product's operand as boxes");
  return map;
}

// The box at (row, column) of a matrix; its bytes count at the barrier, those outside of the matrix too.
__device__ inline void copy_box(uint32_t to, const TensorMap& map, int column, int row, int matrix, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(matrix), "r"(barrier)
      : "memory");
}
// The same to every block of the cluster whose bit is in `blocks`, each at its own address `to` and barrier.
__device__ inline void copy_box_to(uint16_t blocks, uint32_t to, const TensorMap& map, int column, int row, int matrix,
                                   uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(matrix), "r"(barrier), "h"(blocks)
      : "memory");
}
__device__ inline void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

}  // namespace fulgur::cuda

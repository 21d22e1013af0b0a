// What the copy engine brings in boxes (ops/cuda/tensor_map.cuh).
#pragma once
#include <cstdint>

namespace fulgur::cuda {

inline constexpr int kBoxColumns = 64;

// `count` matrices of one shape. Data and strides, in elements, are multiples of 16 bytes. A box is kBoxColumns bf16
// wide, or twice as many bytes.
struct BoxedMatrices {
  const void* data;
  int64_t columns, rows, count, row_stride, apart;
  int box_rows;  // at most 256
  int element_bytes = 2;
};

}  // namespace fulgur::cuda

// What the copy engine brings in boxes (ops/cuda/tensor_map.cuh).
#pragma once
#include <cstdint>

namespace fulgur::cuda {

inline constexpr int kBoxColumns = 64;

// `count` matrices of one shape. Data and strides, in elements, are multiples of 16 bytes.
struct BoxedMatrices {
  const void* data;
  int64_t columns, rows, count, row_stride, apart;
  int box_rows;  // at most 256
};

}  // namespace fulgur::cuda

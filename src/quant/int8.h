// Matrices to int8, symmetric: a scale for each row and kScaleColumns columns (ops/weight.h), the largest of their
// absolute values over 127, as a number of bf16; values are the nearest multiples of it, halves to even.
#pragma once
#include <cstdint>
#include <string>

#include "base/threads.h"

namespace fulgur {

// A dense matrix of f32 numbers.
struct MatrixToQuantise {
  const float* numbers;
  int64_t rows, columns;
};

// scales: [rows, scale_count(columns)]; 0 where all numbers are. Throws corrupt_file naming `tensor` where a number is
// not finite.
void quantise_scales(Threads& threads, const MatrixToQuantise& matrix, const std::string& tensor, float* scales);
// values: [rows, columns], from -127 to 127.
void quantise_values(Threads& threads, const MatrixToQuantise& matrix, const float* scales, int8_t* values);

}  // namespace fulgur

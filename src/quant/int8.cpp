#include "quant/int8.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/error.h"
#include "files/json_file.h"
#include "ops/weight.h"

namespace fulgur {
namespace {

constexpr float kLargest = 127;
constexpr int64_t kGrain = 16;  // rows

// visit(row, scale's number in the row, first column, column after the last)
template <class Visit>
void for_each_scale(Threads& threads, const MatrixToQuantise& m, const Visit& visit) {
  threads.for_ranges(m.rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < scale_count(m.columns); ++i)
        visit(row, i, i * kScaleColumns, std::min(m.columns, (i + 1) * kScaleColumns));
  });
}

// The scale's rounding to bf16 leaves the largest number within half a step of 127; below the smallest scale that there
// is, it would become 0.
float scale_of(float largest) {
  const float scale = float(bf16(largest / kLargest));
  return scale > 0 || largest == 0 ? scale : 0x1p-133F;
}

}  // namespace

void quantise_scales(Threads& threads, const MatrixToQuantise& m, const std::string& tensor, float* scales) {
  std::atomic<bool> finite = true;
  for_each_scale(threads, m, [&](int64_t row, int64_t i, int64_t begin, int64_t end) {
    const float* const numbers = m.numbers + row * m.columns;
    float largest = 0;
    for (int64_t column = begin; column < end; ++column) {
      if (!std::isfinite(numbers[column])) finite = false;
      largest = std::max(largest, std::abs(numbers[column]));
    }
    scales[row * scale_count(m.columns) + i] = scale_of(largest);
  });
  if (!finite)
    fail(ErrorKind::corrupt_file, "tensor " + in_quotes(tensor) +
                                      " holds a number that is not finite, which int8 "
                                      "cannot hold; expected finite weights");
}

void quantise_values(Threads& threads, const MatrixToQuantise& m, const float* scales, int8_t* values) {
  for_each_scale(threads, m, [&](int64_t row, int64_t i, int64_t begin, int64_t end) {
    const float scale = scales[row * scale_count(m.columns) + i];
    for (int64_t column = row * m.columns + begin; column < row * m.columns + end; ++column) {
      const double steps = scale == 0 ? 0 : double(m.numbers[column]) / double(scale);
      values[column] = int8_t(std::clamp(std::nearbyint(steps), -double(kLargest), double(kLargest)));
    }
  });
}

}  // namespace fulgur

// Inside a piece lane j of 16 takes elements j, j + 16, ...; then lane j adds lane j + 8, + 4, + 2, + 1. All in f64.
#include "ops/gradient_norm.h"

#include <cmath>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kLanes = 16;

template <class T>
double sum_of_squares(const T* x, int64_t n) {
  double lanes[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += double(x[i + j]) * double(x[i + j]);
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += double(x[i]) * double(x[i]);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

}  // namespace

void gradient_norm(Stream& stream, const GradientNorm& op) {
  with_element_type<double, float>(op.gradient.dtype, [&]<class T>() {
    const T* gradient = op.gradient.elements<T>();
    const int64_t count = op.gradient.count();
    std::vector<double> pieces(size_t((count + kNormPiece - 1) / kNormPiece));
    stream.threads().for_ranges(count, kNormPiece, [&](int64_t begin, int64_t end) {
      pieces[size_t(begin / kNormPiece)] = sum_of_squares<T>(gradient + begin, end - begin);
    });
    double total = 0;
    for (const double piece : pieces) total += piece;
    *op.norm.elements<double>() = std::sqrt(total);
  });
}

}  // namespace fulgur::cpu

// Rotary position embedding: (a, b) -> (a cos - b sin, b cos + a sin), with a sine and cosine of our own in f64, so
// that their bits are the same with any library.
#include "ops/rotary.h"

#include <cmath>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"
#include "ops/rotary_angle.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kRowsPerItem = 16;

template <class T>
void turn_row(const View<T, 3>& x, int64_t row, const Wide<T>* cosine, const Wide<T>* sine, int64_t half) {
  for (int64_t head = 0; head < x.shape[1]; ++head) {
    T* const first = &x(row, head, 0);
    row_turn<T>(first, first + half, cosine, sine, half);
  }
}

template <class T>
void turn(Threads& threads, const Rotary& op) {
  using W = Wide<T>;
  const View<T, 3> x = op.x.view<T, 3>();
  const View<int64_t, 1> positions = op.positions.view<int64_t, 1>();
  const int64_t half = op.rotary_dim / 2;
  const double sign = op.turn == Turn::forward ? 1 : -1;
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i)
    frequencies[size_t(i)] = std::pow(op.theta, -double(2 * i) / double(op.rotary_dim));
  threads.for_ranges(x.shape[0], kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<W> cosine(frequencies.size()), sine(frequencies.size());
    for (int64_t row = begin; row < end; ++row) {
      for (size_t i = 0; i < frequencies.size(); ++i) {
        const Direction direction = direction_of(double(positions(row)) * frequencies[i]);
        cosine[i] = W(direction.cosine), sine[i] = W(sign * direction.sine);
      }
      turn_row(x, row, cosine.data(), sine.data(), half);
    }
  });
}

}  // namespace

void rotary(Stream& stream, const Rotary& op) {
  with_element_type<double, float, bf16>(op.x.dtype, [&]<class T>() { turn<T>(stream.threads(), op); });
}

}  // namespace fulgur::cpu

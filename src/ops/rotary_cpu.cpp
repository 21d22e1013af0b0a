// Rotary position embedding: (a, b) -> (a cos - b sin, b cos + a sin), with a sine and cosine of our own in f64, so
// that their bits are the same with any library.
#include "ops/rotary.h"

#include <cmath>
#include <vector>

#include "ops/cpu/rows.h"
#include "ops/dtype_switch.h"

namespace fulgur::cpu {
namespace {

constexpr int64_t kRowsPerItem = 16;

struct Direction {
  double cosine, sine;
};

// Taylor sums for |r| <= pi / 4; what is left out is below 1e-18.
double sine_near_zero(double r) {
  const double r2 = r * r;
  double sum = 0;
  for (int n = 17; n >= 3; n -= 2) sum = (1 + sum) * -r2 / double(n * (n - 1));
  return r + r * sum;
}

double cosine_near_zero(double r) {
  const double r2 = r * r;
  double sum = 0;
  for (int n = 18; n >= 4; n -= 2) sum = (1 + sum) * -r2 / double(n * (n - 1));
  return 1 - r2 / 2 * (1 + sum);
}

// Absolute error below 1e-15 up to 1e8 radians. Quarter turns are taken off in three parts of pi / 2: the first two
// have 26 bits, so their multiples and the differences are exact (Cody and Waite).
Direction direction_of(double angle) {
  constexpr double kQuarter[] = {0x1.921fb5p+0, 0x1.110b46p-26, 0x1.1a62633145c07p-54};
  constexpr double kQuartersPerRadian = 0x1.45f306dc9c883p-1;
  const double turns = std::floor(angle * kQuartersPerRadian + 0.5);
  const double r = ((angle - turns * kQuarter[0]) - turns * kQuarter[1]) - turns * kQuarter[2];
  const double s = sine_near_zero(r), c = cosine_near_zero(r);
  switch (int64_t(turns) & 3) {
    case 0: return {c, s};
    case 1: return {-s, c};
    case 2: return {-c, -s};
    default: return {s, -c};
  }
}

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

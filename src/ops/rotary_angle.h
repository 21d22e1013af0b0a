// Sine and cosine of an angle in f64, by arithmetic of our own, so that no library decides a bit; for both twins of
// rotary.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FULGUR_ON_BOTH __host__ __device__
#define FULGUR_UNROLLED _Pragma("unroll")
#else
#define FULGUR_ON_BOTH
#define FULGUR_UNROLLED
#endif

namespace fulgur {

struct Direction {
  double cosine, sine;
};

// Taylor sums for |r| <= pi / 4; what is left out is below 1e-18. Unrolled, so that the quotients are constants: a GPU
// takes long to divide in f64.
FULGUR_ON_BOTH inline double sine_near_zero(double r) {
  const double r2 = r * r;
  double sum = 0;
  FULGUR_UNROLLED
  for (int n = 17; n >= 3; n -= 2) sum = (1 + sum) * (-r2 * (1.0 / double(n * (n - 1))));
  return r + r * sum;
}

FULGUR_ON_BOTH inline double cosine_near_zero(double r) {
  const double r2 = r * r;
  double sum = 0;
  FULGUR_UNROLLED
  for (int n = 18; n >= 4; n -= 2) sum = (1 + sum) * (-r2 * (1.0 / double(n * (n - 1))));
  return 1 - r2 / 2 * (1 + sum);
}

// Absolute error below 1e-15 up to 1e8 radians. Quarter turns are taken off in three parts of pi / 2: the first two
// have 26 bits, so their multiples and the differences are exact (Cody and Waite).
FULGUR_ON_BOTH inline Direction direction_of(double angle) {
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

}  // namespace fulgur

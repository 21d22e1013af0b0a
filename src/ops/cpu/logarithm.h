// The natural logarithm of losses and statistics.
#pragma once
#include <cmath>

namespace fulgur::cpu {

// log x for normal x > 0, to about 1 ulp. Our own: a library's last bit may depend on the processor. With x = m 2^e and
// m around 1, log m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172.
inline double fixed_log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [0.5, 1)
  if (m < 0.70710678118654752) m *= 2, --exponent;
  const double s = (m - 1) / (m + 1), square = s * s;
  double series = 0;
  for (int n = 21; n >= 3; n -= 2) series = (series + 1.0 / n) * square;
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;  // high: exact times an exponent
  return exponent * kLn2High + (2 * s + (2 * s * series + exponent * kLn2Low));
}

}  // namespace fulgur::cpu

// Sixteen lanes of a row, compiled once per instruction set for vectors of Bytes: walks over rows, exp and what gates
// divide by.
//
// exp(x): x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, and 2^n as a product of two powers, so that results
// below the smallest normal number are rounded as they should be. Sums of products are fused in exp and nowhere else.
#pragma once
#include "ops/cpu/lanes.h"

namespace fulgur::cpu {
namespace {

constexpr int kLanes = 16;

template <class T>
struct Exponential;

template <>
struct Exponential<float> {
  using Bits = uint32_t;
  static constexpr float kLowest = -104, kHighest = 89;                  // beyond: 0 and infinity
  static constexpr float kGate = -87;                                    // 2^n is normal, 1 + exp is 1
  static constexpr float kRound = 0x1.8p23f;                             // adding it leaves an integer in the low bits
  static constexpr float kInverse = 0x1.715476p0f;                       // 1 / ln 2
  static constexpr float kHigh = 0.693359375f, kLow = -0x1.bd0106p-13f;  // ln 2, the first times n is exact
  static constexpr uint32_t kRoundBits = 0x4b400000;
  static constexpr int kMantissa = 23, kBias = 127, kOffset = 300;
  // exp(r) = 1 + r + r^2 q(r): q through five Chebyshev nodes, highest power first.
  static constexpr float kPolynomial[] = {0x1.6d113cp-10f, 0x1.120ba2p-7f, 0x1.55551ap-5f, 0x1.5554dcp-3f, 0.5f};
};

template <>
struct Exponential<double> {
  using Bits = uint64_t;
  static constexpr double kLowest = -746, kHighest = 710, kGate = -708;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kInverse = 0x1.71547652b82fep0;
  static constexpr double kHigh = 0x1.62e42fefp-1, kLow = 0x1.473de6af278edp-34;
  static constexpr uint64_t kRoundBits = 0x4338000000000000;
  static constexpr int kMantissa = 52, kBias = 1023, kOffset = 2200;
  // Taylor's, to r^13.
  static constexpr double kPolynomial[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800,
                                           1. / 362880,     1. / 40320,     1. / 5040,     1. / 720,
                                           1. / 120,        1. / 24,        1. / 6,        1. / 2};
};

// Sixteen lanes of T.
template <class T, int Bytes>
struct Row {
  using V = typename LanesOf<T, Bytes, kLanes>::type;
  using Bits = typename Exponential<T>::Bits;
  using B = typename LanesOf<Bits, Bytes, kLanes>::type;

  static V all(T value) { return splat<V>(value); }
  static V load(const T* x) { return Copy<V>::from(x); }
  static V load(const uint16_t* x) { return Bf16Copy<V>::from(x); }
  static void store(T* y, V v) { Copy<V>::to(y, v); }
  static void store(uint16_t* y, V v) { Bf16Copy<V>::to(y, v); }

  // Fewer than kLanes elements, by the binary digits of their count.
  template <int kPiece = kLanes / 2, class E>
  static void copy_some(E* to, const E* from, int64_t count) {
    if (count & kPiece) {
      __builtin_memcpy(to, from, kPiece * sizeof(E));
      to += kPiece, from += kPiece;
    }
    if constexpr (kPiece > 1) copy_some<kPiece / 2>(to, from, count);
  }
  template <class E>
  static V load_some(const E* x, int64_t count, T padding) {
    E lanes[kLanes];
    store(lanes, all(padding));
    copy_some(lanes, x, count);
    return load(lanes);
  }
  template <class E>
  static void store_some(E* y, int64_t count, V v) {
    E lanes[kLanes];
    store(lanes, v);
    copy_some(y, lanes, count);
  }

  // step(get, put) for each sixteen elements: get(x) reads those of row x, put(y, v) writes them.
  template <class Step>
  static void walk(int64_t n, T padding, Step step) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      step([i](const auto* x) { return load(x + i); }, [i](auto* y, V v) { store(y + i, v); });
    if (const int64_t left = n - i; left > 0)
      step([=](const auto* x) { return load_some(x + i, left, padding); },
           [=](auto* y, V v) { store_some(y + i, left, v); });
  }
  template <class Step>
  static void walk(int64_t n, Step step) {
    walk(n, 0, step);
  }

  // step(row, get, put) for each sixteen elements of each row; one loop over all of them where rows are whole vectors,
  // since constants would be fetched anew for every row.
  template <class Step>
  static void walk_rows(int64_t rows, int64_t n, Step step) {
    if (n % kLanes != 0) {
      for (int64_t row = 0; row < rows; ++row) walk(n, [=](auto get, auto put) { step(row, get, put); });
      return;
    }
    int64_t row = 0, i = 0;
    for (int64_t left = rows * (n / kLanes); left > 0; --left) {
      step(
          row, [i](const auto* x) { return load(x + i); }, [i](auto* y, V v) { store(y + i, v); });
      if ((i += kLanes) == n) i = 0, ++row;
    }
  }

  // The first `count` lanes of v, the others of `other`.
  static V first_lanes(V v, int64_t count, V other) {
    static constexpr T kLane[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return if_less(load(kLane), all(T(count)), v, other);
  }

  // step(get, keep, put) for each sixteen of the first `count` elements of a row of n; keep(v, other) is v in those
  // that count and `other` beyond. Where rows are whole vectors, the last of them is read and written whole. Returns
  // how many elements it has gone through.
  template <class Step>
  static int64_t walk_seen(int64_t count, int64_t n, Step step) {
    int64_t i = 0;
    const auto get = [&i](const auto* x) { return load(x + i); };
    const auto put = [&i](auto* y, V v) { store(y + i, v); };
    for (; i + kLanes <= count; i += kLanes)
      step(
          get, [](V v, V) { return v; }, put);
    const int64_t left = count - i;
    if (left <= 0) return i;
    const auto keep = [left](V v, V other) { return first_lanes(v, left, other); };
    if (n % kLanes == 0) {
      step(get, keep, put);
      return i + kLanes;
    }
    step([=](const auto* x) { return load_some(x + i, left, 0); }, keep,
         [=](auto* y, V v) { store_some(y + i, left, v); });
    return count;
  }

  template <class Join>
  static T fold(V v, Join join) {
    T lanes[kLanes];
    store(lanes, v);
    for (int step = kLanes / 2; step > 0; step /= 2)
      for (int lane = 0; lane < step; ++lane) lanes[lane] = join(lanes[lane], lanes[lane + step]);
    return lanes[0];
  }
  static T folded_sum(V v) {
    return fold(v, [](T a, T b) { return a + b; });
  }

  // exp(r) and n for x = n ln 2 + r; n as the low bits of a number that is kRound + n.
  struct Reduced {
    V power, rounded;
  };
  static Reduced reduced(V x) {
    using E = Exponential<T>;
    const V rounded = fused(x, all(E::kInverse), all(E::kRound)), n = rounded - all(E::kRound);
    const V r = fused(n, all(-E::kLow), fused(n, all(-E::kHigh), x));
    V q = all(E::kPolynomial[0]);
    for (unsigned i = 1; i < sizeof E::kPolynomial / sizeof(T); ++i) q = fused(q, r, all(E::kPolynomial[i]));
    return {fused(r * r, q, r) + all(1), rounded};
  }

  // What is too low takes the way of exp(0) and is cleared at the end: a result below the normal numbers costs the
  // processor a hundred cycles, and rows that are masked are full of -infinity.
  static V exponential(V wanted) {
    using E = Exponential<T>;
    V x = if_less(wanted, all(E::kLowest), all(0), wanted);
    x = if_less(all(E::kHighest), x, all(E::kHighest), x);
    const Reduced e = reduced(x);
    // n = half + rest; the offset keeps what is shifted right positive.
    const B shifted = Copy<B>::bits(e.rounded) - splat<B>(Bits(E::kRoundBits - E::kOffset));
    const B half = shifted >> 1;
    const B first = (half - splat<B>(Bits(E::kOffset / 2 - E::kBias))) << E::kMantissa;
    const B second = (shifted - half - splat<B>(Bits(E::kOffset / 2 - E::kBias))) << E::kMantissa;
    return if_less(wanted, all(E::kLowest), all(0), e.power * Copy<V>::bits(first) * Copy<V>::bits(second));
  }

  // 1 + exp(-x), infinite from the first n whose power of two is: what gates divide by. Below kGate it is 1.
  static V gate_divisor(V x) {
    using E = Exponential<T>;
    V y = all(0) - x;
    y = if_less(y, all(E::kGate), all(E::kGate), y);
    y = if_less(all(E::kHighest), y, all(E::kHighest), y);
    const Reduced e = reduced(y);
    const B scale = (Copy<B>::bits(e.rounded) - splat<B>(Bits(E::kRoundBits - E::kBias))) << E::kMantissa;
    return all(1) + e.power * Copy<V>::bits(scale);
  }

  static V sigmoid_of(V x) { return all(1) / gate_divisor(x); }
  static V silu_of(V x) { return x / gate_divisor(x); }
  static V silu_slope(V x) {
    const V s = sigmoid_of(x);
    return s * (all(1) + x * (all(1) - s));
  }
};

}  // namespace
}  // namespace fulgur::cpu

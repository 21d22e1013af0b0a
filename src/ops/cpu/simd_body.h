// The row primitives of simd.h, compiled once per instruction set for vectors of Bytes, in sixteen lanes on all of
// them.
//
// exp(x): x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, and 2^n as a product of two powers, so that results
// below the smallest normal number are rounded as they should be. Products and sums stay separate instructions.
#pragma once
#include "ops/cpu/lanes.h"
#include "ops/cpu/simd_table.h"

namespace fulgur::cpu {
namespace {

constexpr int kLanes = 16;

template <class T>
struct Exponential;

template <>
struct Exponential<float> {
  using Bits = uint32_t;
  static constexpr float kLowest = -104, kHighest = 89;                  // beyond: 0 and infinity
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
  static constexpr double kLowest = -746, kHighest = 710;
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

template <class T, int Bytes>
struct Rows {
  using V = typename LanesOf<T, Bytes, kLanes>::type;
  using Bits = typename Exponential<T>::Bits;
  using B = typename LanesOf<Bits, Bytes, kLanes>::type;

  static V all(T value) { return splat<V>(value); }
  static V load(const T* x) { return Copy<V>::from(x); }
  static void store(T* y, V v) { Copy<V>::to(y, v); }

  // Fewer than kLanes elements, by the binary digits of their count.
  template <int kPiece = kLanes / 2>
  static void copy_some(T* to, const T* from, int64_t count) {
    if (count & kPiece) {
      __builtin_memcpy(to, from, kPiece * sizeof(T));
      to += kPiece, from += kPiece;
    }
    if constexpr (kPiece > 1) copy_some<kPiece / 2>(to, from, count);
  }
  static V load_some(const T* x, int64_t count, T padding) {
    T lanes[kLanes];
    store(lanes, all(padding));
    copy_some(lanes, x, count);
    return load(lanes);
  }
  static void store_some(T* y, int64_t count, V v) {
    T lanes[kLanes];
    store(lanes, v);
    copy_some(y, lanes, count);
  }

  // step(get, put) for each sixteen elements: get(x) reads those of row x, put(y, v) writes them.
  template <class Step>
  static void walk(int64_t n, T padding, Step step) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      step([i](const T* x) { return load(x + i); }, [i](T* y, V v) { store(y + i, v); });
    if (const int64_t left = n - i; left > 0)
      step([=](const T* x) { return load_some(x + i, left, padding); }, [=](T* y, V v) { store_some(y + i, left, v); });
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

  // What is too low takes the way of exp(0) and is cleared at the end: a result below the normal numbers costs the
  // processor a hundred cycles, and rows that are masked are full of -infinity.
  static V exponential(V wanted) {
    using E = Exponential<T>;
    V x = if_less(wanted, all(E::kLowest), all(0), wanted);
    x = if_less(all(E::kHighest), x, all(E::kHighest), x);
    const V rounded = x * all(E::kInverse) + all(E::kRound);
    const V n = rounded - all(E::kRound);
    const V r = (x - n * all(E::kHigh)) - n * all(E::kLow);
    V q = all(E::kPolynomial[0]);
    for (unsigned i = 1; i < sizeof E::kPolynomial / sizeof(T); ++i) q = q * r + all(E::kPolynomial[i]);
    const V p = (r * r * q + r) + all(1);
    // n = half + rest; the offset keeps what is shifted right positive.
    const B shifted = Copy<B>::bits(rounded) - splat<B>(Bits(E::kRoundBits - E::kOffset));
    const B half = shifted >> 1;
    const B first = (half - splat<B>(Bits(E::kOffset / 2 - E::kBias))) << E::kMantissa;
    const B second = (shifted - half - splat<B>(Bits(E::kOffset / 2 - E::kBias))) << E::kMantissa;
    return if_less(wanted, all(E::kLowest), all(0), p * Copy<V>::bits(first) * Copy<V>::bits(second));
  }
  static V negated_exponential(V x) { return exponential(all(0) - x); }

  static T sum(const T* x, int64_t n) {
    V acc = all(0);
    walk(n, 0, [&](auto get, auto) { acc = acc + get(x); });
    return folded_sum(acc);
  }
  static T max(const T* x, int64_t n) {
    V acc = all(-T(__builtin_inf()));
    walk(n, -T(__builtin_inf()), [&](auto get, auto) { acc = larger(get(x), acc); });
    return fold(acc, [](T a, T b) { return a > b ? a : b; });
  }
  static T dot(const T* x, const T* y, int64_t n) {
    V acc = all(0);
    walk(n, 0, [&](auto get, auto) { acc = acc + get(x) * get(y); });
    return folded_sum(acc);
  }
  static T dot3(const T* x, const T* y, const T* z, int64_t n) {
    V acc = all(0);
    walk(n, 0, [&](auto get, auto) { acc = acc + get(x) * get(y) * get(z); });
    return folded_sum(acc);
  }

  static void scale(T* y, const T* x, T a, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, all(a) * get(x)); });
  }
  static void add(T* y, const T* x, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, get(y) + get(x)); });
  }
  static void add_scaled(T* y, const T* x, T a, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, get(y) + all(a) * get(x)); });
  }
  static void blend(T* y, const T* a, T alpha, const T* b, T beta, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, all(alpha) * get(a) + all(beta) * get(b)); });
  }
  static void mul(T* y, const T* a, const T* b, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, get(a) * get(b)); });
  }
  static void scale_mul(T* y, const T* x, T a, const T* b, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, all(a) * get(x) * get(b)); });
  }
  static void add_scaled_mul(T* y, const T* x, T a, const T* b, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, get(y) + all(a) * (get(x) * get(b))); });
  }
  static void blend_mul(T* y, const T* a, const T* b, T alpha, const T* c, T beta, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, all(alpha) * (get(a) * get(b)) + all(beta) * get(c)); });
  }

  static void exp(T* y, const T* x, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, exponential(get(x))); });
  }
  static T exp_sum(T* y, const T* x, T shift, int64_t n) {
    V acc = all(0);
    // Padding of -infinity leaves exp(-infinity) = 0 in the lanes beyond the row.
    walk(n, -T(__builtin_inf()), [&](auto get, auto put) {
      const V e = exponential(get(x) - all(shift));
      put(y, e);
      acc = acc + e;
    });
    return folded_sum(acc);
  }

  static V sigmoid_of(V x) { return all(1) / (all(1) + negated_exponential(x)); }
  static V silu_of(V x) { return x / (all(1) + negated_exponential(x)); }
  static V silu_slope(V x) {
    const V s = sigmoid_of(x);
    return s * (all(1) + x * (all(1) - s));
  }
  static void sigmoid(T* y, const T* x, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, sigmoid_of(get(x))); });
  }
  static void silu(T* y, const T* x, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, silu_of(get(x))); });
  }
  static void silu_backward(T* dx, const T* dy, const T* x, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(dx, get(dy) * silu_slope(get(x))); });
  }
  static void swiglu(T* y, const T* gate, const T* up, int64_t n) {
    walk(n, 0, [=](auto get, auto put) { put(y, silu_of(get(gate)) * get(up)); });
  }
  static void swiglu_backward(T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
    walk(n, 0, [=](auto get, auto put) {
      const V d = get(dy), g = get(gate), u = get(up);
      put(dgate, d * u * silu_slope(g));
      put(dup, d * silu_of(g));
    });
  }

  static T root(T x) { return sizeof(T) == 4 ? T(__builtin_sqrtf(float(x))) : T(__builtin_sqrt(double(x))); }
  // The rest are plain loops, which the compiler turns into vectors by itself.
  static void turn(T* __restrict a, T* __restrict b, const T* __restrict cosine, const T* __restrict sine, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const T before_a = a[i], before_b = b[i];
      a[i] = before_a * cosine[i] - before_b * sine[i];
      b[i] = before_b * cosine[i] + before_a * sine[i];
    }
  }
  static void adamw(T* __restrict w, T* __restrict m, T* __restrict v, const T* __restrict gradient,
                    const AdamWStep<T>& step, T decay, int64_t n) {
    const AdamWStep<T> c = step;
    for (int64_t i = 0; i < n; ++i) {
      const T g = c.clip * gradient[i];
      m[i] = c.keep1 * m[i] + c.take1 * g;
      v[i] = c.keep2 * v[i] + (c.take2 * g) * g;
      const T direction = (m[i] * c.unbias1) / (root(v[i] * c.unbias2) + c.eps);
      w[i] = w[i] - c.rate * (direction + decay * w[i]);
    }
  }

  static constexpr RowTable<T> kTable = {
      sum,   max,           dot,       dot3,           scale,           add,  add_scaled,
      blend, mul,           scale_mul, add_scaled_mul, blend_mul,       exp,  exp_sum,
      silu,  silu_backward, sigmoid,   swiglu,         swiglu_backward, turn, adamw};
};

// Between f32 and the bits of bf16, in integers: the processors' own conversion takes subnormal numbers for 0.
void widen(float* __restrict y, const uint16_t* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = __builtin_bit_cast(float, uint32_t(x[i]) << 16);
}
uint16_t nearest_even(float x) {  // what bf16(x) is
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  const bool nan = int32_t(u & 0x7fffffff) > 0x7f800000;
  return uint16_t(nan ? (u >> 16) | 0x40 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
void narrow(uint16_t* __restrict y, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = nearest_even(x[i]);
}

// A piece of a stored row in the type that it is computed in, and back: itself, or for bf16 a copy on the stack.
template <class Stored, class T>
struct Piece {
  static constexpr int64_t kMost = 256;
  T copy[kMost];
  const T* read(const Stored* x, int64_t n) {
    widen(copy, x, n);
    return copy;
  }
  T* written(Stored*) { return copy; }
  void done(Stored* y, int64_t n) { narrow(y, copy, n); }
};
template <class T>
struct Piece<T, T> {
  static constexpr int64_t kMost = INT64_MAX;
  const T* read(const T* x, int64_t) { return x; }
  T* written(T* y) { return y; }
  void done(T*, int64_t) {}
};

template <class Stored, class T, int Bytes>
struct Blocks {
  // step(row, begin, count) for pieces of every row.
  template <class Step>
  static void walk(int64_t rows, int64_t n, Step step) {
    constexpr int64_t kMost = Piece<Stored, T>::kMost;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t begin = 0; begin < n; begin += kMost < n ? kMost : n)
        step(row, begin, n - begin < kMost ? n - begin : kMost);
  }

  static void silu(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, int64_t rows, int64_t n) {
    walk(rows, n, [=](int64_t row, int64_t begin, int64_t count) {
      Piece<Stored, T> in, out;
      Stored* const to = y + row * y_stride + begin;
      Rows<T, Bytes>::silu(out.written(to), in.read(x + row * x_stride + begin, count), count);
      out.done(to, count);
    });
  }
  static void silu_backward(Stored* dx, int64_t dx_stride, const T* dy, int64_t dy_stride, const Stored* x,
                            int64_t x_stride, int64_t rows, int64_t n) {
    walk(rows, n, [=](int64_t row, int64_t begin, int64_t count) {
      Piece<Stored, T> in, out;
      Stored* const to = dx + row * dx_stride + begin;
      Rows<T, Bytes>::silu_backward(out.written(to), dy + row * dy_stride + begin,
                                    in.read(x + row * x_stride + begin, count), count);
      out.done(to, count);
    });
  }
  static void scale(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, const T* factors, int64_t step,
                    int64_t rows, int64_t n) {
    walk(rows, n, [=](int64_t row, int64_t begin, int64_t count) {
      Piece<Stored, T> in, out;
      Stored* const to = y + row * y_stride + begin;
      Rows<T, Bytes>::scale(out.written(to), in.read(x + row * x_stride + begin, count), factors[row * step], count);
      out.done(to, count);
    });
  }
  static void triangle(Stored* y, int64_t y_stride, const T* x, int64_t x_stride, const T* factors, int64_t first,
                       int64_t step, int64_t rows, int64_t n) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t diagonal = first + row * step, seen = diagonal + 1 < n ? diagonal + 1 : n;
      Piece<Stored, T> out;
      Stored* const to = y + row * y_stride;
      for (int64_t begin = 0; begin < seen; begin += Piece<Stored, T>::kMost < seen ? Piece<Stored, T>::kMost : seen) {
        const int64_t count = seen - begin < Piece<Stored, T>::kMost ? seen - begin : Piece<Stored, T>::kMost;
        Rows<T, Bytes>::mul(out.written(to + begin), x + row * x_stride + begin, factors - diagonal + begin, count);
        out.done(to + begin, count);
      }
      for (int64_t j = seen; j < n; ++j) to[j] = Stored(0);
    }
  }
  static void store(Stored* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t n) {
    for (int64_t row = 0; row < rows; ++row) {
      Stored* __restrict to = y + row * y_stride;
      const T* __restrict from = x + row * x_stride;
      for (int64_t i = 0; i < n; ++i) {
        if constexpr (sizeof(Stored) == sizeof(T)) to[i] = T(0) + from[i];
        else to[i] = nearest_even(T(0) + from[i]);
      }
    }
  }

  static constexpr BlockTable<Stored, T> kTable = {silu, silu_backward, scale, triangle, store};
};

template <int Bytes>
constexpr RowTables kRowTables = {Rows<float, Bytes>::kTable,
                                  Rows<double, Bytes>::kTable,
                                  Blocks<float, float, Bytes>::kTable,
                                  Blocks<double, double, Bytes>::kTable,
                                  Blocks<uint16_t, float, Bytes>::kTable,
                                  widen,
                                  narrow};

}  // namespace
}  // namespace fulgur::cpu

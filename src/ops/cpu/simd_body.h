// The row primitives of simd.h, compiled once per instruction set for vectors of Bytes, in sixteen lanes on all of
// them.
//
// exp(x): x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, and 2^n as a product of two powers, so that results
// below the smallest normal number are rounded as they should be. Sums of products are fused in exp and nowhere else.
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

template <class T, int Bytes>
struct WideRows : Row<T, Bytes> {
  using R = Row<T, Bytes>;
  using V = typename R::V;
  using R::all, R::walk;

  static T sum(const T* x, int64_t n) {
    V acc = all(0);
    walk(n, [&](auto get, auto) { acc = acc + get(x); });
    return R::folded_sum(acc);
  }
  static T max(const T* x, int64_t n) {
    V acc = all(-T(__builtin_inf()));
    walk(n, -T(__builtin_inf()), [&](auto get, auto) { acc = larger(get(x), acc); });
    return R::fold(acc, [](T a, T b) { return a > b ? a : b; });
  }
  static void mul(T* y, const T* a, const T* b, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, get(a) * get(b)); });
  }
  static void add_scaled(T* y, const T* x, T a, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, get(y) + all(a) * get(x)); });
  }
  static void exp(T* y, const T* x, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, R::exponential(get(x))); });
  }
  static T exp_sum(T* y, const T* x, T shift, int64_t n) {
    V acc = all(0);
    // Padding of -infinity leaves exp(-infinity) = 0 in the lanes beyond the row.
    walk(n, -T(__builtin_inf()), [&](auto get, auto put) {
      const V e = R::exponential(get(x) - all(shift));
      put(y, e);
      acc = acc + e;
    });
    return R::folded_sum(acc);
  }

  static int64_t count_seen(const Seen& seen, int64_t row) {
    const int64_t count = seen.first + row % seen.period + 1;
    return count < seen.n ? count : seen.n;
  }
  static void max_seen(T* highest, const T* x, int64_t x_stride, const Seen& seen) {
    for (int64_t row = 0; row < seen.rows; ++row, x += x_stride) {
      const V none = all(-T(__builtin_inf()));
      V acc = none;
      R::walk_seen(count_seen(seen, row), seen.n,
                   [&](auto get, auto keep, auto) { acc = larger(keep(get(x), none), acc); });
      highest[row] = R::fold(acc, [](T a, T b) { return a > b ? a : b; });
    }
  }
  static void exp_seen(T* y, int64_t y_stride, T a, const T* shifts, T* sums, const Seen& seen) {
    for (int64_t row = 0; row < seen.rows; ++row, y += y_stride) {
      const V scale = all(a), shift = all(shifts[row]), zero = all(0);
      V acc = zero;
      int64_t i = R::walk_seen(count_seen(seen, row), seen.n, [&](auto get, auto keep, auto put) {
        const V e = keep(R::exponential(scale * get(y) - shift), zero);
        put(y, e);
        acc = acc + e;
      });
      if (sums != nullptr) sums[row] = R::folded_sum(acc);
      for (; i < seen.n; ++i) y[i] = 0;
    }
  }

  static T root(T x) { return sizeof(T) == 4 ? T(__builtin_sqrtf(float(x))) : T(__builtin_sqrt(double(x))); }
  // A plain loop, which the compiler turns into vectors by itself.
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

  static constexpr WideTable<T> kTable = {sum, max, mul, add_scaled, exp, exp_sum, max_seen, exp_seen, adamw};
};

template <class Stored, class T, int Bytes>
struct StoredRows : Row<T, Bytes> {
  using R = Row<T, Bytes>;
  using V = typename R::V;
  using R::all, R::walk, R::walk_rows;

  static T dot(const Stored* x, const Stored* y, int64_t n) {
    V acc = all(0);
    walk(n, [&](auto get, auto) { acc = acc + get(x) * get(y); });
    return R::folded_sum(acc);
  }
  static T dot3(const Stored* x, const Stored* y, const Stored* z, int64_t n) {
    V acc = all(0);
    walk(n, [&](auto get, auto) { acc = acc + get(x) * get(y) * get(z); });
    return R::folded_sum(acc);
  }
  static T gated_dot3(const Stored* x, const Stored* gate, const Stored* y, const Stored* z, int64_t n) {
    V acc = all(0);
    walk(n, [&](auto get, auto) { acc = acc + get(x) * R::sigmoid_of(get(gate)) * get(y) * get(z); });
    return R::folded_sum(acc);
  }
  static void add(T* y, const Stored* x, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, get(y) + get(x)); });
  }
  static void scale(Stored* y, const Stored* x, T a, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, all(a) * get(x)); });
  }
  static void blend(Stored* y, const Stored* a, T alpha, const Stored* b, T beta, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, all(alpha) * get(a) + all(beta) * get(b)); });
  }
  static void scale_mul(Stored* y, const Stored* x, T a, const Stored* b, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, all(a) * get(x) * get(b)); });
  }
  static void gated_scale_mul(Stored* y, const Stored* x, T a, const Stored* b, const Stored* gate, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, all(a) * get(x) * get(b) * R::sigmoid_of(get(gate))); });
  }
  static void gated_backward(const GatedGradient<Stored, T>& row, int64_t n) {
    const GatedGradient<Stored, T> g = row;
    walk(n, [=](auto get, auto put) {
      const V open = R::sigmoid_of(get(g.gate)), flow = get(g.dy) * open, in = get(g.x), weight = get(g.weight);
      const V product = flow * (all(g.inverse_rms) * in), gated = product * weight;
      put(g.dweight, get(g.dweight) + product);
      put(g.dgate, gated - gated * open);
      put(g.dx, all(g.inverse_rms) * (flow * weight) + all(-g.pull) * in);
    });
  }
  static void blend_mul(Stored* y, const Stored* a, const Stored* b, T alpha, const Stored* c, T beta, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, all(alpha) * (get(a) * get(b)) + all(beta) * get(c)); });
  }
  static void gather(Stored* y, const Stored* x, int64_t x_stride, const int64_t* rows, int64_t count, int64_t n) {
    walk(n, [=](auto get, auto put) {
      V sum = all(0);
      for (int64_t i = 0; i < count; ++i) sum = sum + get(x + rows[i] * x_stride);
      put(y, sum);
    });
  }
  static void combine(Stored* y, const Stored* x, int64_t x_stride, const int32_t* rows, const T* factors,
                      int64_t count, int64_t n) {
    walk(n, [=](auto get, auto put) {
      V sum = all(0);
      bool first = true;
      for (int64_t i = 0; i < count; ++i) {
        if (rows[i] < 0) continue;
        const V product = all(factors[i]) * get(x + rows[i] * x_stride);
        sum = first ? product : sum + product;
        first = false;
      }
      put(y, sum);
    });
  }
  static void swiglu(Stored* y, const Stored* gate, const Stored* up, int64_t n) {
    walk(n, [=](auto get, auto put) { put(y, R::silu_of(get(gate)) * get(up)); });
  }
  static void swiglu_backward(Stored* dgate, Stored* dup, const Stored* dy, const Stored* gate, const Stored* up,
                              int64_t n) {
    walk(n, [=](auto get, auto put) {
      const V d = get(dy), g = get(gate), u = get(up);
      put(dgate, d * u * R::silu_slope(g));
      put(dup, d * R::silu_of(g));
    });
  }
  static void turn(Stored* a, Stored* b, const T* cosine, const T* sine, int64_t n) {
    walk(n, [=](auto get, auto put) {
      const V before_a = get(a), before_b = get(b), c = get(cosine), s = get(sine);
      put(a, before_a * c - before_b * s);
      put(b, before_b * c + before_a * s);
    });
  }

  static void silu(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, int64_t rows, int64_t n) {
    walk_rows(rows, n,
              [=](int64_t row, auto get, auto put) { put(y + row * y_stride, R::silu_of(get(x + row * x_stride))); });
  }
  static void silu_backward(Stored* dx, int64_t dx_stride, const T* dy, int64_t dy_stride, const Stored* x,
                            int64_t x_stride, int64_t rows, int64_t n) {
    walk_rows(rows, n, [=](int64_t row, auto get, auto put) {
      put(dx + row * dx_stride, get(dy + row * dy_stride) * R::silu_slope(get(x + row * x_stride)));
    });
  }
  static void scale_rows(Stored* y, int64_t y_stride, const Stored* x, int64_t x_stride, const T* factors, int64_t step,
                         int64_t rows, int64_t n) {
    walk_rows(rows, n, [=](int64_t row, auto get, auto put) {
      put(y + row * y_stride, all(factors[row * step]) * get(x + row * x_stride));
    });
  }
  static void triangle(Stored* y, int64_t y_stride, const T* x, int64_t x_stride, const T* factors, int64_t first,
                       int64_t step, int64_t rows, int64_t n) {
    for (int64_t row = 0; row < rows; ++row, y += y_stride, x += x_stride) {
      const int64_t diagonal = first + row * step;
      int64_t i = R::walk_seen(diagonal + 1 < n ? diagonal + 1 : n, n, [=](auto get, auto keep, auto put) {
        put(y, keep(get(x) * get(factors - diagonal), all(0)));
      });
      for (; i < n; ++i) y[i] = Stored(0);
    }
  }
  static void sub_mul(Stored* y, int64_t y_stride, const T* x, int64_t x_stride, const T* shifts, const T* b,
                      int64_t b_stride, int64_t rows, int64_t n) {
    walk_rows(rows, n, [=](int64_t row, auto get, auto put) {
      put(y + row * y_stride, (get(x + row * x_stride) - all(shifts[row])) * get(b + row * b_stride));
    });
  }
  static void store(Stored* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t n) {
    walk_rows(rows, n,
              [=](int64_t row, auto get, auto put) { put(y + row * y_stride, all(0) + get(x + row * x_stride)); });
  }
  // Several vectors of columns at a time, so that a row is read in whole cache lines.
  static void add_products(T* y, const Stored* x, int64_t x_stride, const T* factors, const Stored* b, int64_t b_stride,
                           int64_t rows, int64_t n) {
    constexpr int kVectors = 4;
    int64_t at = 0;
    for (; at + kVectors * kLanes <= n; at += kVectors * kLanes) {
      V sum[kVectors];
      for (int i = 0; i < kVectors; ++i) sum[i] = R::load(y + at + i * kLanes);
      for (int64_t row = 0; row < rows; ++row)
        for (int i = 0; i < kVectors; ++i) {
          const int64_t column = at + i * kLanes;
          sum[i] = sum[i] +
                   all(factors[row]) * (R::load(x + row * x_stride + column) * R::load(b + row * b_stride + column));
        }
      for (int i = 0; i < kVectors; ++i) R::store(y + at + i * kLanes, sum[i]);
    }
    walk(n - at, [=](auto get, auto put) {
      V sum = get(y + at);
      for (int64_t row = 0; row < rows; ++row)
        sum = sum + all(factors[row]) * (get(x + row * x_stride + at) * get(b + row * b_stride + at));
      put(y + at, sum);
    });
  }

  static constexpr RowTable<Stored, T> kTable = {
      dot,       dot3,    gated_dot3, add,         scale,           blend, scale_mul, gated_scale_mul, gated_backward,
      blend_mul, gather,  combine,    swiglu,      swiglu_backward, turn,  silu,      silu_backward,   scale_rows,
      triangle,  sub_mul, store,      add_products};
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

template <int Bytes>
constexpr RowTables kRowTables = {WideRows<float, Bytes>::kTable,
                                  WideRows<double, Bytes>::kTable,
                                  StoredRows<float, float, Bytes>::kTable,
                                  StoredRows<double, double, Bytes>::kTable,
                                  StoredRows<uint16_t, float, Bytes>::kTable,
                                  widen,
                                  narrow};

}  // namespace
}  // namespace fulgur::cpu

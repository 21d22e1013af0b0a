// The row primitives of simd.h, compiled once per instruction set for vectors of Bytes, in sixteen lanes on all of
// them.
#pragma once
#include "ops/cpu/row_body.h"
#include "ops/cpu/simd_table.h"

namespace fulgur::cpu {
namespace {

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

  static constexpr WideTable<T> kTable = {sum, max, add_scaled, exp, exp_sum, max_seen, exp_seen, adamw};
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
// Whole blocks have a number of steps that the compiler knows, and then no rest.
template <class T, class Stored, class Round>
void dequantise_row(Stored* __restrict y, const int8_t* __restrict x, T scale, int64_t n, const Round& round) {
  constexpr int64_t kBlock = 64;
  for (; n >= kBlock; n -= kBlock, x += kBlock, y += kBlock)
    for (int64_t i = 0; i < kBlock; ++i) y[i] = round(T(x[i]) * scale);
  for (int64_t i = 0; i < n; ++i) y[i] = round(T(x[i]) * scale);
}
void dequantise(float* y, const int8_t* x, float scale, int64_t n) {
  dequantise_row<float>(y, x, scale, n, [](float v) { return v; });
}
void dequantise_wide(double* y, const int8_t* x, double scale, int64_t n) {
  dequantise_row<double>(y, x, scale, n, [](double v) { return v; });
}
void dequantise_bf16(uint16_t* y, const int8_t* x, float scale, int64_t n) {
  dequantise_row<float>(y, x, scale, n, [](float v) {  // as nearest_even: there is no NaN
    const uint32_t u = __builtin_bit_cast(uint32_t, v);
    return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  });
}
void tempered(double* __restrict y, const float* __restrict x, float greatest, double temperature, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double below = double(x[i]) - double(greatest), quotient = temperature == 1 ? below : below / temperature;
    y[i] = x[i] == greatest ? 0 : quotient > -1000 ? quotient : -1000;
  }
}

template <class Stored, class T, int Bytes>
struct StoredRows : Row<T, Bytes> {
  using R = Row<T, Bytes>;
  using V = typename R::V;
  using R::all, R::walk, R::walk_rows;

  static T wide(Stored x) {
    if constexpr (sizeof(Stored) == sizeof(T)) return x;
    else return __builtin_bit_cast(float, uint32_t(x) << 16);
  }
  static Stored stored(T x) {
    if constexpr (sizeof(Stored) == sizeof(T)) return x;
    else return nearest_even(x);
  }

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
  // In a plain loop, which the compiler turns into vectors by itself: a head has few pairs.
  static void turn(Stored* __restrict a, Stored* __restrict b, const T* __restrict cosine, const T* __restrict sine,
                   int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const T before_a = wide(a[i]), before_b = wide(b[i]);
      a[i] = stored(before_a * cosine[i] - before_b * sine[i]);
      b[i] = stored(before_b * cosine[i] + before_a * sine[i]);
    }
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

template <int Bytes>
constexpr RowTables kRowTables = {WideRows<float, Bytes>::kTable,
                                  WideRows<double, Bytes>::kTable,
                                  StoredRows<float, float, Bytes>::kTable,
                                  StoredRows<double, double, Bytes>::kTable,
                                  StoredRows<uint16_t, float, Bytes>::kTable,
                                  widen,
                                  narrow,
                                  dequantise,
                                  dequantise_wide,
                                  dequantise_bf16,
                                  tempered};

}  // namespace
}  // namespace fulgur::cpu

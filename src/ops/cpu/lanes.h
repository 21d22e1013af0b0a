// Sixteen lanes of T as pairs of pairs of the vectors that an instruction set has, with arithmetic lane by lane.
// Everything here has internal linkage, since each instruction set compiles its own copy.
#pragma once
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fulgur::cpu {
namespace {

template <class V>
struct Pair {
  V low, high;
};

// Count lanes of T in vectors of Bytes.
template <class T, int Bytes, int Count, bool kNative = Count* int(sizeof(T)) == Bytes>
struct LanesOf {
  using type = Pair<typename LanesOf<T, Bytes, Count / 2>::type>;
};
template <class T, int Bytes, int Count>
struct LanesOf<T, Bytes, Count, true> {
  typedef T type __attribute__((vector_size(Bytes)));
};

template <class V>
Pair<V> operator+(Pair<V> a, Pair<V> b) {
  return {a.low + b.low, a.high + b.high};
}
template <class V>
Pair<V> operator-(Pair<V> a, Pair<V> b) {
  return {a.low - b.low, a.high - b.high};
}
template <class V>
Pair<V> operator*(Pair<V> a, Pair<V> b) {
  return {a.low * b.low, a.high * b.high};
}
template <class V>
Pair<V> operator/(Pair<V> a, Pair<V> b) {
  return {a.low / b.low, a.high / b.high};
}
template <class V>
Pair<V> operator<<(Pair<V> a, int bits) {
  return {a.low << bits, a.high << bits};
}
template <class V>
Pair<V> operator>>(Pair<V> a, int bits) {
  return {a.low >> bits, a.high >> bits};
}

// a * b + c rounded once, in every lane.
template <class V>
V fused(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 8) return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  if constexpr (sizeof(V) == 32 && sizeof(a[0]) == 4) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  if constexpr (sizeof(V) == 32 && sizeof(a[0]) == 8) return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  if constexpr (sizeof(V) == 16 && sizeof(a[0]) == 4)
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  if constexpr (sizeof(V) == 16 && sizeof(a[0]) == 8)
    return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#endif
  V sum = c;
  for (unsigned i = 0; i < sizeof(V) / sizeof(a[0]); ++i) {
    if constexpr (sizeof(a[0]) == 4) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
    else sum[i] = __builtin_fma(a[i], b[i], c[i]);
  }
  return sum;
}
template <class V>
Pair<V> fused(Pair<V> a, Pair<V> b, Pair<V> c) {
  return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)};
}

// a where it is larger, else b: b too where either is NaN.
template <class V>
V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
Pair<V> larger(Pair<V> a, Pair<V> b) {
  return {larger(a.low, b.low), larger(a.high, b.high)};
}

// yes where a < b, else no: no too where either is NaN.
template <class V>
V if_less(V a, V b, V yes, V no) {
  return a < b ? yes : no;
}
template <class V>
Pair<V> if_less(Pair<V> a, Pair<V> b, Pair<V> yes, Pair<V> no) {
  return {if_less(a.low, b.low, yes.low, no.low), if_less(a.high, b.high, yes.high, no.high)};
}

// Memory to lanes, lanes to memory, and the same bits as another type of lanes: vector by vector, since a copy of a
// whole Pair makes g++ keep it in memory.
template <class V>
struct Copy {
  static V from(const void* memory) {
    V v;
    __builtin_memcpy(&v, memory, sizeof v);
    return v;
  }
  static void to(void* memory, V v) { __builtin_memcpy(memory, &v, sizeof v); }
  template <class From>
  static V bits(From from) {
    return (V)from;
  }
};
template <class V>
struct Copy<Pair<V>> {
  static Pair<V> from(const void* memory) {
    return {Copy<V>::from(memory), Copy<V>::from(static_cast<const char*>(memory) + sizeof(V))};
  }
  static void to(void* memory, Pair<V> v) {
    Copy<V>::to(memory, v.low), Copy<V>::to(static_cast<char*>(memory) + sizeof(V), v.high);
  }
  template <class From>
  static Pair<V> bits(Pair<From> from) {
    return {Copy<V>::bits(from.low), Copy<V>::bits(from.high)};
  }
};

// Lanes of float from and to the bits of bf16 in memory, in integers: the processors' own conversion takes subnormal
// numbers for 0.
template <class V, int kBytes = int(sizeof(V))>
struct Bf16Copy {
  using Half = typename LanesOf<uint16_t, kBytes / 2, kBytes / 4>::type;
  using Bits = typename LanesOf<uint32_t, kBytes, kBytes / 4>::type;
  static V from(const void* memory) {
    Half half;
    __builtin_memcpy(&half, memory, sizeof half);
    return (V)(__builtin_convertvector(half, Bits) << 16);
  }
  static void to(void* memory, V v) {  // to nearest even, NaN stays NaN
    const Bits u = (Bits)v, rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    const Half half = __builtin_convertvector(v == v ? rounded : (u >> 16) | 0x40, Half);
    __builtin_memcpy(memory, &half, sizeof half);
  }
};
template <class V, int kBytes>
struct Bf16Copy<Pair<V>, kBytes> {
  static Pair<V> from(const void* memory) {
    return {Bf16Copy<V>::from(memory), Bf16Copy<V>::from(static_cast<const char*>(memory) + sizeof(V) / 2)};
  }
  static void to(void* memory, Pair<V> v) {
    Bf16Copy<V>::to(memory, v.low), Bf16Copy<V>::to(static_cast<char*>(memory) + sizeof(V) / 2, v.high);
  }
};

template <class V, class T>
struct Splat {
  static V of(T value) { return value - V{}; }  // v - 0 is v, for -0 and NaN too
};
template <class V, class T>
struct Splat<Pair<V>, T> {
  static Pair<V> of(T value) { return {Splat<V, T>::of(value), Splat<V, T>::of(value)}; }
};
template <class V, class T>
V splat(T value) {
  return Splat<V, T>::of(value);
}

}  // namespace
}  // namespace fulgur::cpu

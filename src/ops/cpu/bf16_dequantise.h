// Int8 weights to bf16 by the processor's own conversion, which takes subnormal numbers for 0, as its products do.
// Compiled once per instruction set, as bf16_body.h is.
#pragma once
#include "ops/cpu/bf16_body.h"

namespace fulgur::cpu {
namespace {

inline void dequantise(uint16_t* y, const int8_t* x, float scale, int64_t n) {
  const __m512 scales = _mm512_set1_ps(scale);
  const auto numbers = [&](const int8_t* from) {
    const __m512i words = _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)from));
    return _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, words), scales);
  };
  for (; n >= 32; n -= 32, x += 32, y += 32) {
    const __m512bh line = _mm512_cvtne2ps_pbh(numbers(x + 16), numbers(x));
    __builtin_memcpy(y, &line, sizeof line);
  }
  for (int64_t i = 0; i < n; ++i) y[i] = rounded(float(x[i]) * scale);
}

}  // namespace
}  // namespace fulgur::cpu

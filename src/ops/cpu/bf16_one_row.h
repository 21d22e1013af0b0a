// One row by a matrix that is read as it lies, once and in order: what decoding does with a state and its tail.
// Compiled once per instruction set, as bf16_body.h is.
//
// Sums<n> holds the sums of 16 n columns: add(vector, a pair of the row's steps in every lane, line) for each pair of
// steps of a block, then end_block(). A line is that of a panel of columns.
#pragma once
#include "ops/cpu/bf16_body.h"

namespace fulgur::cpu {
namespace {

// While it lives, subnormal numbers count as 0, operands and results: as they do in products of bf16 whatever the
// thread's mode. The sums lie behind a pointer to a function, so that none moves out of the mode.
class SubnormalsAreZero {
 public:
  SubnormalsAreZero() { _mm_setcsr(before_ | 0x8040); }
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;
  ~SubnormalsAreZero() { _mm_setcsr(before_); }

 private:
  const unsigned before_ = _mm_getcsr();
};

// Two steps of 32 columns.
inline void pair_up(const uint16_t* even, const uint16_t* odd, Words* line) { interleave(even, odd, line[0], line[1]); }
inline void pair_up(const float* even, const float* odd, Words* line) {
  for (int half = 0; half < 2; ++half, even += 16, odd += 16)
    line[half] = rounded_above(load_words(even)) >> 16 | (rounded_above(load_words(odd)) & 0xffff0000);
}

// An f32 matrix is a state, too large to be at hand: asks for the step kAhead further on. Behind a head's last step
// lies the next head's state.
inline void fetch_ahead(const uint16_t*, int64_t) {}
inline void fetch_ahead(const float* step, int64_t k_stride) {
  constexpr int64_t kAhead = 32;
  __builtin_prefetch(step + kAhead * k_stride, 0, 2), __builtin_prefetch(step + kAhead * k_stride + 16, 0, 2);
}

// Columns side by side, 16 kVectors of them.
template <template <int> class Sums, int kVectors, class E>
void one_row(const uint16_t* x, int64_t k, const E* b, int64_t k_stride, float* c, bool from_c) {
  Sums<kVectors> sums(c, from_c);
  const auto add = [&](const E* even, const E* odd, int64_t odd_stride, uint32_t steps) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i += 2, even += kLanes, odd += odd_stride) {
      Words line[2];
      fetch_ahead(even, k_stride), fetch_ahead(even + k_stride, k_stride);
      pair_up(even, odd, line);
      sums.add(i, Words{} + steps, line[0]), sums.add(i + 1, Words{} + steps, line[1]);
    }
  };
  int64_t p = 0;
  for (; p + 1 < k; p += 2, b += 2 * k_stride) {
    add(b, b + k_stride, kLanes, x[p] | uint32_t(x[p + 1]) << 16);
    if ((p + 2) % kBlock == 0) sums.end_block();
  }
  static constexpr E kNone[kLanes] = {};
  if (p < k) add(b, kNone, 0, x[p]), p += 2;
  // The pairs behind k are zeros, as in a block that is packed: -0 becomes +0.
  for (int i = 0; i < kVectors && p % kBlock != 0; ++i) sums.add(i, Words{}, Words{});
  if (k % kBlock != 0) sums.end_block();
  sums.store(c);
}

template <template <int> class Sums, class E>
void one_row_by_lines(const uint16_t* x, int64_t k, const E* b, int64_t k_stride, float* c, int64_t n, bool from_c) {
  constexpr int kMost = 8;  // vectors whose sums stay in registers
  int64_t column = 0;
  for (; column + 16 * kMost <= n; column += 16 * kMost)
    one_row<Sums, kMost>(x, k, b + column, k_stride, c + column, from_c);
  for (; column < n; column += kLanes) one_row<Sums, 2>(x, k, b + column, k_stride, c + column, from_c);
}

// Steps side by side, in whole blocks: those of 16 columns are turned into lines on the way. In the place of columns
// beyond the last one the last is read again.
template <template <int> class Sums>
void one_row_by_columns(const uint16_t* x, int64_t k, const uint16_t* b, int64_t column_stride, float* c, int64_t n,
                        bool from_c) {
  constexpr int64_t kAtOnce = 16;
  for (int64_t column = 0; column < n; column += kAtOnce, c += kAtOnce) {
    const int64_t count = n - column < kAtOnce ? n - column : kAtOnce;
    const uint16_t* from[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) from[i] = b + (column + (i < count ? i : count - 1)) * column_stride;
    alignas(64) float some[kAtOnce] = {};
    if (from_c) __builtin_memcpy(some, c, std::size_t(count) * sizeof(float));
    Sums<1> sums(some, from_c);
    for (int64_t p = 0; p < k; p += 8) {
      Words line[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        line[i] = join_quarters(from[i] + p, from[i + 4] + p, from[i + 8] + p, from[i + 12] + p);
      turn_words(line);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t steps;
        __builtin_memcpy(&steps, x + p + 2 * pair, sizeof steps);
        sums.add(0, Words{} + steps, line[pair]);
      }
      if ((p + 8) % kBlock == 0) sums.end_block();
    }
    sums.store(some);
    __builtin_memcpy(c, some, std::size_t(count) * sizeof(float));
  }
}

template <template <int> class Sums>
void multiply_one(const uint16_t* x, int64_t k, const Bf16Lying& b, float* c, int64_t n, bool from_c) {
  const auto* const halves = static_cast<const uint16_t*>(b.data);
  if (b.column_stride != 1) one_row_by_columns<Sums>(x, k, halves, b.column_stride, c, n, from_c);
  else if (b.is_bf16) one_row_by_lines<Sums>(x, k, halves, b.k_stride, c, n, from_c);
  else one_row_by_lines<Sums>(x, k, static_cast<const float*>(b.data), b.k_stride, c, n, from_c);
}

}  // namespace
}  // namespace fulgur::cpu

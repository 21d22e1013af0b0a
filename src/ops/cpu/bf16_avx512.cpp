// bf16 products on AVX512-BF16: sixteen sums a register, each a chain over the pairs of k.
#include "ops/cpu/bf16_kernel.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>

#include <utility>

#include "ops/cpu/bf16_body.h"
#include "ops/cpu/bf16_dequantise.h"
#include "ops/cpu/bf16_one_row.h"

namespace fulgur::cpu {
namespace {

constexpr int kRowsAtOnce = 8;
constexpr int kFewMost = 16;  // rows whose sums stay in registers

// kRows rows of a panel by its 32 columns.
template <int kRows>
void multiply_rows(int64_t k, const Bf16Rows& rows, int64_t row, const uint16_t* b, float* c, int64_t c_stride,
                   bool from_c) {
  const auto* a = static_cast<const uint16_t*>(rows.data) + row * rows.row_stride;
  c += row * c_stride;
  __m512 sum[kRows][2];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    sum[i][0] = from_c ? _mm512_loadu_ps(c + i * c_stride) : _mm512_setzero_ps();
    sum[i][1] = from_c ? _mm512_loadu_ps(c + i * c_stride + 16) : _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < k; p += kBlock, a += rows.block_stride)
    for (int64_t pair = 0; pair < kBlock / 2; ++pair, b += 2 * kLanes) {
      const __m512bh left = (__m512bh)load_words(b), right = (__m512bh)load_words(b + kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        int word;
        __builtin_memcpy(&word, a + i * rows.row_stride + 2 * pair, sizeof word);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(word);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], both, left);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], both, right);
      }
    }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
    _mm512_storeu_ps(c + i * c_stride, sum[i][0]), _mm512_storeu_ps(c + i * c_stride + 16, sum[i][1]);
}

void multiply(const Bf16Kernel&, int64_t count, int64_t k, const Bf16Rows& rows, const void* b, float* c,
              int64_t c_stride, bool from_c) {
  const auto* columns = static_cast<const uint16_t*>(b);
  int64_t row = 0;
  for (; row + kRowsAtOnce <= count; row += kRowsAtOnce)
    multiply_rows<kRowsAtOnce>(k, rows, row, columns, c, c_stride, from_c);
  for (; row < count; ++row) multiply_rows<1>(k, rows, row, columns, c, c_stride, from_c);
}

// Rows of x as f32 numbers, block by block: each row's 32 steps.
void pack_few(const Bf16Kernel&, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k,
              void* to) {
  auto* x = static_cast<float*>(to);
  for (int64_t p = 0; p < k; p += kBlock, x += kFewMost * kBlock)
    for (int64_t i = 0; i < lanes; ++i)
      for (int64_t step = 0; step < kBlock; ++step)
        x[i * kBlock + step] = p + step < k ? widened(from[i * lane_stride + (p + step) * k_stride]) : 0;
}

// kRows rows of x by 16 kBlocks rows of w, whose pairs of steps are turned into lines on the way. A pair's product is
// two f32 ones, the odd step's first: fused, they give the same bits sooner.
template <int kRows, int kBlocks = 1>
void multiply_few_rows(int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride, int64_t next,
                       const float* x, float* c, bool from_c) {
  __m512 sum[kBlocks][kRows];
#pragma GCC unroll 2
  for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
      sum[b][i] = from_c ? _mm512_loadu_ps(c + i * kLanes + b * kFewMost) : _mm512_setzero_ps();
  for (int64_t p = 0; p < k; p += kBlock, w += block_stride, x += kFewMost * kBlock) {
    if constexpr (kBlocks == 1) fetch_ahead<kFewMost, 3>(w, row_stride, p, k, next);
    for (int64_t four = 0; four < kBlock / 8; ++four) {  // pairs of steps
      Words line[kBlocks][4];
#pragma GCC unroll 2
      for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          line[b][j] = load_quarters(w + (b * kFewMost + j) * row_stride + 8 * four, 4 * row_stride);
        turn_words(line[b]);
      }
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair) {
        const float* const steps = x + 8 * four + 2 * pair;
#pragma GCC unroll 2
        for (int b = 0; b < kBlocks; ++b) {
          const auto odd = (__m512)(line[b][pair] & 0xffff0000);
#pragma GCC unroll 16
          for (int i = 0; i < kRows; ++i)
            sum[b][i] = _mm512_fmadd_ps(_mm512_set1_ps(steps[i * kBlock + 1]), odd, sum[b][i]);
        }
#pragma GCC unroll 2
        for (int b = 0; b < kBlocks; ++b) {
          const auto even = (__m512)(line[b][pair] << 16);
#pragma GCC unroll 16
          for (int i = 0; i < kRows; ++i)
            sum[b][i] = _mm512_fmadd_ps(_mm512_set1_ps(steps[i * kBlock]), even, sum[b][i]);
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int b = 0; b < kBlocks; ++b)
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(c + i * kLanes + b * kFewMost, sum[b][i]);
}

// Of few sums each waits for the one before; 32 rows of w that lie close together, as those do that were dequantised,
// give twice as many that do not.
constexpr int64_t kCloseStride = 256, kFewSums = 4;
void multiply_close_rows(int64_t count, int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride,
                         const float* x, float* c, bool from_c) {
  constexpr decltype(&multiply_few_rows<1, 2>) kOfCount[] = {multiply_few_rows<1, 2>, multiply_few_rows<2, 2>,
                                                             multiply_few_rows<3, 2>, multiply_few_rows<4, 2>};
  kOfCount[count - 1](k, w, row_stride, block_stride, 0, x, c, from_c);
}

template <int... kCounts>
void multiply_few_of(std::integer_sequence<int, kCounts...>, int64_t count, int64_t k, const uint16_t* w,
                     int64_t row_stride, int64_t block_stride, int64_t next, const float* x, float* c, bool from_c) {
  constexpr decltype(&multiply_few_rows<1>) kOfCount[] = {multiply_few_rows<kCounts + 1>...};
  kOfCount[count - 1](k, w, row_stride, block_stride, next, x, c, from_c);
}

void multiply_few(int64_t count, int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride, int64_t next,
                  const void* x, float* c, bool from_c) {
  const SubnormalsAreZero mode;
  const auto* const rows = static_cast<const float*>(x);
  if (count <= kFewSums && row_stride <= kCloseStride)
    return multiply_close_rows(count, k, w, row_stride, block_stride, rows, c, from_c);
  const int64_t half = kFewMost * row_stride;
  using Counts = std::make_integer_sequence<int, kFewMost>;
  multiply_few_of(Counts(), count, k, w, row_stride, block_stride, half, rows, c, from_c);
  multiply_few_of(Counts(), count, k, w + half, row_stride, block_stride, next == 0 ? 0 : next - half, rows,
                  c + kFewMost, from_c);
}

// One chain over the pairs of k for each of one row's sums.
template <int kVectors>
class PairSums {
 public:
  PairSums(const float* c, bool from_c) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) sum_[i] = from_c ? _mm512_loadu_ps(c + 16 * i) : _mm512_setzero_ps();
  }
  void add(int i, Words steps, Words line) { sum_[i] = _mm512_dpbf16_ps(sum_[i], (__m512bh)steps, (__m512bh)line); }
  void end_block() {}
  void store(float* c) const {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) _mm512_storeu_ps(c + 16 * i, sum_[i]);
  }

 private:
  __m512 sum_[kVectors];
};

constexpr Bf16Kernel kKernel = {.rows = kLanes,
                                .columns = kLanes,
                                .step = kBlock,
                                .row_grain = 1,
                                .element_bytes = 2,
                                .reads_rows = true,
                                .pack_rows = pack_rows,
                                .pack_columns = pack_columns,
                                .pack_wide = pack_wide,
                                .multiply = multiply,
                                .load_block = load_block,
                                .store_block = store_block,
                                .turn_block = turn_block,
                                .few = kFewMost,
                                .pack_few = pack_few,
                                .multiply_few = multiply_few,
                                .multiply_one = multiply_one<PairSums>,
                                .dequantise = dequantise};

}  // namespace

const Bf16Kernel* bf16_kernel_avx512() { return &kKernel; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const Bf16Kernel* bf16_kernel_avx512() { return nullptr; }

}  // namespace fulgur::cpu
#endif

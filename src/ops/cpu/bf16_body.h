// Packing for processors that multiply pairs of bf16, and the products on matrix tiles. Compiled once per instruction
// set; everything here has internal linkage. A block is 32 steps of k. A panel of rows holds, per block, each row's 32
// numbers; a panel of columns holds, per pair of steps, each column's two numbers side by side.
#pragma once
#include "ops/cpu/bf16_kernel.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace fulgur::cpu {
namespace {

constexpr int64_t kLanes = 32;  // of a panel
constexpr int64_t kBlock = 32;  // steps of k

typedef uint16_t Halves __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));

inline Words load_words(const void* from) {
  Words v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
inline void store_words(void* to, Words v) { __builtin_memcpy(to, &v, sizeof v); }

// Four pieces of 16 bytes.
inline Words join_quarters(const uint16_t* a, const uint16_t* b, const uint16_t* c, const uint16_t* d) {
#if defined(__AVX512F__)
  const auto piece = [](const uint16_t* from) { return _mm_loadu_si128((const __m128i*)from); };
  __m512i v = _mm512_castsi128_si512(piece(a));
  v = _mm512_mask_broadcast_i32x4(v, 0x00f0, piece(b));
  v = _mm512_mask_broadcast_i32x4(v, 0x0f00, piece(c));
  return (Words)_mm512_mask_broadcast_i32x4(v, 0xf000, piece(d));
#else
  Words v;
  const uint16_t* const from[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) __builtin_memcpy(reinterpret_cast<char*>(&v) + 16 * i, from[i], 16);
  return v;
#endif
}
// `stride` elements apart.
inline Words load_quarters(const uint16_t* from, int64_t stride) {
  return join_quarters(from, from + stride, from + 2 * stride, from + 3 * stride);
}

// In each quarter, the numbers of a's and b's lower (or upper) halves in turn: numbers of 16, 32 and 64 bits.
inline Words zip_low16(Words a, Words b) {
  return (Words)__builtin_shufflevector((Halves)a, (Halves)b, 0, 32, 1, 33, 2, 34, 3, 35, 8, 40, 9, 41, 10, 42, 11, 43,
                                        16, 48, 17, 49, 18, 50, 19, 51, 24, 56, 25, 57, 26, 58, 27, 59);
}
inline Words zip_high16(Words a, Words b) {
  return (Words)__builtin_shufflevector((Halves)a, (Halves)b, 4, 36, 5, 37, 6, 38, 7, 39, 12, 44, 13, 45, 14, 46, 15,
                                        47, 20, 52, 21, 53, 22, 54, 23, 55, 28, 60, 29, 61, 30, 62, 31, 63);
}
inline Words zip_low32(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
inline Words zip_high32(Words a, Words b) {
  return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
inline Words zip_low64(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
inline Words zip_high64(Words a, Words b) {
  return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

// In each quarter, four lines of four words turned over.
inline void turn_words(Words (&line)[4]) {
  const Words low01 = zip_low32(line[0], line[1]), high01 = zip_high32(line[0], line[1]);
  const Words low23 = zip_low32(line[2], line[3]), high23 = zip_high32(line[2], line[3]);
  line[0] = zip_low64(low01, low23), line[1] = zip_high64(low01, low23);
  line[2] = zip_low64(high01, high23), line[3] = zip_high64(high01, high23);
}
// In each quarter, eight lines of eight numbers turned over.
inline void turn_numbers(Words (&line)[8]) {
  Words left[4], right[4];  // columns 0 to 3 and 4 to 7, two lines in each word
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    left[i] = zip_low16(line[2 * i], line[2 * i + 1]), right[i] = zip_high16(line[2 * i], line[2 * i + 1]);
  turn_words(left), turn_words(right);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) line[i] = left[i], line[4 + i] = right[i];
}

// The words (a0, b0), (a1, b1), ... of two lines of 32 numbers.
inline void interleave(const uint16_t* a, const uint16_t* b, Words& low, Words& high) {
  Halves x, y;
  __builtin_memcpy(&x, a, sizeof x), __builtin_memcpy(&y, b, sizeof y);
  low = (Words)__builtin_shufflevector(x, y, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10,
                                       42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
  high = (Words)__builtin_shufflevector(x, y, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56,
                                        25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
}

// A block that is not whole: its numbers with zeros around them, lanes or steps side by side as they were.
struct Ragged {
  alignas(64) uint16_t values[kLanes * kBlock];
  Ragged(const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k) {
    __builtin_memset(values, 0, sizeof values);
    if (k_stride == 1) {
      for (int64_t lane = 0; lane < lanes; ++lane)
        __builtin_memcpy(values + lane * kBlock, from + lane * lane_stride, std::size_t(k) * 2);
    } else {
      for (int64_t p = 0; p < k; ++p)
        for (int64_t lane = 0; lane < lanes; ++lane)
          values[p * kLanes + lane] = from[p * k_stride + lane * lane_stride];
    }
  }
};

// block(from, lane_stride, k_stride, to) for every block of a panel.
template <class Block>
void for_each_block(const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes, int64_t k, uint16_t* to,
                    int64_t block_elements, const Block& block) {
  for (int64_t p = 0; p < k; p += kBlock, from += kBlock * k_stride, to += block_elements) {
    if (lanes >= kLanes && k - p >= kBlock) {
      block(from, lane_stride, k_stride, to);
    } else {
      const Ragged whole(from, lane_stride, k_stride, lanes, k - p < kBlock ? k - p : kBlock);
      if (k_stride == 1) block(whole.values, kBlock, 1, to);
      else block(whole.values, 1, kLanes, to);
    }
  }
}

// 32 lanes whose steps lie side by side: pairs of steps become lines.
inline void turn_lanes(const uint16_t* from, int64_t lane_stride, uint16_t* to) {
  for (int half = 0; half < 2; ++half, from += 16 * lane_stride, to += kLanes)
#pragma GCC unroll 4
    for (int four = 0; four < 4; ++four) {  // pairs of steps
      Words line[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) line[i] = load_quarters(from + i * lane_stride + 8 * four, 4 * lane_stride);
      turn_words(line);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store_words(to + (4 * four + i) * 2 * kLanes, line[i]);
    }
}

// 32 lanes side by side: each lane's steps come together.
inline void turn_steps(const uint16_t* from, int64_t k_stride, uint16_t* to) {
#pragma GCC unroll 4
  for (int eight = 0; eight < 4; ++eight) {  // lanes
    Words line[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) line[i] = load_quarters(from + i * k_stride + 8 * eight, 8 * k_stride);
    turn_numbers(line);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) store_words(to + (8 * eight + i) * kBlock, line[i]);
  }
}

inline void pack_columns(const Bf16Kernel&, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes,
                         int64_t k, void* to) {
  for_each_block(from, lane_stride, k_stride, lanes, k, static_cast<uint16_t*>(to), kLanes * kBlock,
                 [](const uint16_t* f, int64_t by_lane, int64_t by_k, uint16_t* t) {
                   if (by_k == 1) return turn_lanes(f, by_lane, t);
                   for (int p = 0; p < kBlock / 2; ++p, t += 2 * kLanes) {
                     Words low, high;
                     interleave(f + 2 * p * by_k, f + (2 * p + 1) * by_k, low, high);
                     store_words(t, low), store_words(t + kLanes, high);
                   }
                 });
}

// Few rows whose steps lie side by side, zeros for the others.
inline void pack_some_rows(const uint16_t* from, int64_t lane_stride, int64_t lanes, int64_t k, uint16_t* to) {
  for (int64_t p = 0; p < k; p += kBlock, from += kBlock, to += kLanes * kBlock)
    for (int64_t i = 0; i < kLanes; ++i) {
      Words line = {};
      if (i < lanes && k - p >= kBlock) line = load_words(from + i * lane_stride);
      else if (i < lanes) __builtin_memcpy(&line, from + i * lane_stride, std::size_t(k - p) * 2);
      store_words(to + i * kBlock, line);
    }
}

inline void pack_rows(const Bf16Kernel&, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes,
                      int64_t k, void* to) {
  if (k_stride == 1 && lanes < kLanes) return pack_some_rows(from, lane_stride, lanes, k, static_cast<uint16_t*>(to));
  for_each_block(from, lane_stride, k_stride, lanes, k, static_cast<uint16_t*>(to), kLanes * kBlock,
                 [](const uint16_t* f, int64_t by_lane, int64_t by_k, uint16_t* t) {
                   if (by_k == 1) {
                     for (int i = 0; i < kLanes; ++i) store_words(t + i * kBlock, load_words(f + i * by_lane));
                     return;
                   }
                   turn_steps(f, by_k, t);
                 });
}

typedef uint16_t HalfLine __attribute__((vector_size(32)));

inline uint16_t rounded(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float widened(uint16_t half) {
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
// 16 numbers to nearest even, in the upper halves; the quiet bit keeps a NaN one.
inline Words rounded_above(Words bits) {
  const Words magnitude = bits & 0x7fffffff, even = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
  return magnitude > 0x7f800000 ? quiet : even;
}
inline HalfLine rounded(Words bits) { return __builtin_convertvector(rounded_above(bits) >> 16, HalfLine); }

// Asks for the steps that follow these as it goes.
inline void pack_wide(const float* from, int64_t k_stride, int64_t k, void* to) {
  auto* line = static_cast<uint16_t*>(to);
  for (int64_t p = 0; p < k; p += 2, from += 2 * k_stride)
    for (int half = 0; half < kLanes; half += 16, line += kLanes) {
      const float *const even = from + half, *const odd = even + k_stride;
      __builtin_prefetch(even + kBlock * k_stride), __builtin_prefetch(odd + kBlock * k_stride);
      store_words(line, rounded_above(load_words(even)) >> 16 | (rounded_above(load_words(odd)) & 0xffff0000));
    }
}

inline void load_block(const Bf16Kernel&, float* block, const void* c, bool c_is_bf16, int64_t c_stride, int64_t count,
                       int64_t width) {
  const auto* halves = static_cast<const uint16_t*>(c);
  const auto* floats = static_cast<const float*>(c);
  for (int64_t i = 0; i < count; ++i, block += kLanes, halves += c_stride, floats += c_stride) {
    if (!c_is_bf16 && width == kLanes) {
      __builtin_memcpy(block, floats, kLanes * sizeof(float));
      continue;
    }
    for (int64_t j = 0; j < width; ++j) block[j] = c_is_bf16 ? widened(halves[j]) : floats[j];
    for (int64_t j = width; j < kLanes; ++j) block[j] = 0;
  }
}

// A block of 32 lines of 32 sums, turned over.
inline void turn_block(float* block) {
  alignas(64) float turned[kLanes * kLanes];
  const auto* from = reinterpret_cast<const uint16_t*>(block);
  constexpr int64_t kLine = 2 * kLanes;  // in halves of a word
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 8; ++j) {  // four columns of sixteen lines
      Words line[4];
      for (int q = 0; q < 4; ++q) line[q] = load_quarters(from + (16 * i + q) * kLine + 8 * j, 4 * kLine);
      turn_words(line);
      for (int q = 0; q < 4; ++q) store_words(turned + (4 * j + q) * kLanes + 16 * i, line[q]);
    }
  __builtin_memcpy(block, turned, sizeof turned);
}

// 32 sums, two vectors, to a line. The processor's own conversion takes subnormal numbers for 0, which sums of its bf16
// products never are: those products do so too.
inline void store_line(uint16_t* to, Words low, Words high) {
#if defined(__AVX512BF16__)
  const __m512bh line = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  __builtin_memcpy(to, &line, sizeof line);
#else
  const HalfLine left = rounded(low), right = rounded(high);
  __builtin_memcpy(to, &left, sizeof left), __builtin_memcpy(to + 16, &right, sizeof right);
#endif
}

inline void store_block(const Bf16Kernel&, const float* block, void* c, bool c_is_bf16, int64_t c_stride, int64_t count,
                        int64_t width) {
  auto* halves = static_cast<uint16_t*>(c);
  auto* floats = static_cast<float*>(c);
  for (int64_t i = 0; i < count; ++i, block += kLanes, halves += c_stride, floats += c_stride) {
    if (!c_is_bf16) {
      __builtin_memcpy(floats, block, std::size_t(width) * sizeof(float));
    } else if (width == kLanes) {
      store_line(halves, load_words(block), load_words(block + 16));
    } else {
      for (int64_t j = 0; j < width; ++j) halves[j] = rounded(block[j]);
    }
  }
}

// Asks for the line of each of w's rows that is read kAhead steps after step p, in the rows behind them where the sum
// ends before. kLocality: as the compiler counts caches, 3 the nearest.
template <int kRows, int kLocality>
inline void fetch_ahead(const uint16_t* w, int64_t row_stride, int64_t p, int64_t k, int64_t next) {
  constexpr int64_t kAhead = 8 * kBlock;
  w += p + kAhead < k ? kAhead : kAhead - k + next;
  for (int64_t i = 0; i < kRows; ++i) __builtin_prefetch(w + i * row_stride, 0, kLocality);
}

// Products on tiles of 16 rows of 64 bytes. Tiles names the instructions: zero<T>, load<T>(from, bytes between rows),
// store<T>, multiply<C, A, B>: C += the products of A's rows of pairs with B's columns of pairs.
template <class Tiles>
struct TileProducts {
  static constexpr int64_t kHalf = 16;  // rows or columns of a tile of sums

  static void multiply(const Bf16Kernel&, int64_t count, int64_t k, const Bf16Rows& rows, const void* b, float* c,
                       int64_t c_stride, bool from_c) {
    const auto* columns = static_cast<const uint16_t*>(b);
    if (count > kHalf) both_halves(k, rows, columns, c, c_stride, from_c);
    else one_half(k, rows, columns, c, c_stride, from_c);
  }

  static void both_halves(int64_t k, const Bf16Rows& rows, const uint16_t* b, float* c, int64_t c_stride, bool from_c) {
    const int64_t stride = c_stride * 4, a_stride = rows.row_stride * 2;
    const auto *a = static_cast<const uint16_t*>(rows.data), *a_below = a + kHalf * rows.row_stride;
    float* const below = c + kHalf * c_stride;
    if (from_c) {
      Tiles::template load<0>(c, stride), Tiles::template load<1>(c + kHalf, stride);
      Tiles::template load<2>(below, stride), Tiles::template load<3>(below + kHalf, stride);
    } else {
      Tiles::template zero<0>(), Tiles::template zero<1>(), Tiles::template zero<2>(), Tiles::template zero<3>();
    }
    for (int64_t p = 0; p < k;
         p += kBlock, a += rows.block_stride, a_below += rows.block_stride, b += kLanes * kBlock) {
      Tiles::template load<4>(a, a_stride), Tiles::template load<6>(b, 128);
      Tiles::template multiply<0, 4, 6>();
      Tiles::template load<7>(b + kLanes, 128);
      Tiles::template multiply<1, 4, 7>();
      Tiles::template load<5>(a_below, a_stride);
      Tiles::template multiply<2, 5, 6>(), Tiles::template multiply<3, 5, 7>();
    }
    Tiles::template store<0>(c, stride), Tiles::template store<1>(c + kHalf, stride);
    Tiles::template store<2>(below, stride), Tiles::template store<3>(below + kHalf, stride);
  }

  static void one_half(int64_t k, const Bf16Rows& rows, const uint16_t* b, float* c, int64_t c_stride, bool from_c) {
    const int64_t stride = c_stride * 4, a_stride = rows.row_stride * 2;
    const auto* a = static_cast<const uint16_t*>(rows.data);
    if (from_c) Tiles::template load<0>(c, stride), Tiles::template load<1>(c + kHalf, stride);
    else Tiles::template zero<0>(), Tiles::template zero<1>();
    for (int64_t p = 0; p < k; p += kBlock, a += rows.block_stride, b += kLanes * kBlock) {
      Tiles::template load<4>(a, a_stride);
      Tiles::template load<6>(b, 128), Tiles::template load<7>(b + kLanes, 128);
      Tiles::template multiply<0, 4, 6>(), Tiles::template multiply<1, 4, 7>();
    }
    Tiles::template store<0>(c, stride), Tiles::template store<1>(c + kHalf, stride);
  }

  // Few rows: w stays as it lies and takes the place of rows, x that of columns, so the sums come out turned over.
  static void multiply_few(int64_t count, int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride,
                           int64_t next, const void* x, float* c, bool from_c) {
    if (from_c) turn_block(c);
    const auto* columns = static_cast<const uint16_t*>(x);
    if (count > kHalf) few_columns<true>(k, w, row_stride, block_stride, next, columns, c, from_c);
    else few_columns<false>(k, w, row_stride, block_stride, next, columns, c, from_c);
    turn_block(c);
  }

  // 32 rows by 16 columns, or by 32.
  template <bool kBoth>
  static void few_columns(int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride, int64_t next,
                          const uint16_t* x, float* c, bool from_c) {
    const int64_t stride = row_stride * 2, c_stride = kLanes * 4;
    float* const below = c + kHalf * kLanes;
    if (from_c) {
      Tiles::template load<0>(c, c_stride), Tiles::template load<1>(below, c_stride);
      if constexpr (kBoth)
        Tiles::template load<2>(c + kHalf, c_stride), Tiles::template load<3>(below + kHalf, c_stride);
    } else {
      Tiles::template zero<0>(), Tiles::template zero<1>(), Tiles::template zero<2>(), Tiles::template zero<3>();
    }
    for (int64_t p = 0; p < k; p += kBlock, w += block_stride, x += kLanes * kBlock) {
      fetch_ahead<kLanes, 2>(w, row_stride, p, k, next);
      Tiles::template load<6>(x, 128), Tiles::template load<4>(w, stride);
      Tiles::template multiply<0, 4, 6>();
      Tiles::template load<5>(w + kHalf * row_stride, stride), Tiles::template multiply<1, 5, 6>();
      if constexpr (kBoth) {
        Tiles::template load<7>(x + kLanes, 128);
        Tiles::template multiply<2, 4, 7>(), Tiles::template multiply<3, 5, 7>();
      }
    }
    Tiles::template store<0>(c, c_stride), Tiles::template store<1>(below, c_stride);
    if constexpr (kBoth)
      Tiles::template store<2>(c + kHalf, c_stride), Tiles::template store<3>(below + kHalf, c_stride);
  }

  static constexpr Bf16Kernel kernel() {
    return {.rows = kLanes,
            .columns = kLanes,
            .step = kBlock,
            .row_grain = kHalf,
            .element_bytes = 2,
            .products_per_cycle = 256,
            .reads_rows = true,
            .pack_rows = pack_rows,
            .pack_columns = pack_columns,
            .pack_wide = pack_wide,
            .multiply = multiply,
            .load_block = load_block,
            .store_block = store_block,
            .turn_block = turn_block,
            .begin = Tiles::begin,
            .end = Tiles::end,
            .few = kLanes,
            .pack_few = pack_columns,
            .multiply_few = multiply_few};
  }
};

}  // namespace
}  // namespace fulgur::cpu

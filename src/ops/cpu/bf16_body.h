// Packing for processors that multiply pairs of bf16, and the products on matrix tiles. Compiled once per instruction
// set; everything here has internal linkage. A block is 32 steps of k. A panel of rows holds, per block, each row's 32
// numbers; a panel of columns holds, per pair of steps, each column's two numbers side by side.
#pragma once
#include "ops/cpu/bf16_kernel.h"

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

inline Words zip_low(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Words zip_high(Words a, Words b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// 16 lines of 16 words, turned over: each round zips line i with line i + 8.
inline void turn(Words (&line)[16]) {
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    Words zipped[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      zipped[2 * i] = zip_low(line[i], line[i + 8]);
      zipped[2 * i + 1] = zip_high(line[i], line[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) line[i] = zipped[i];
  }
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

// Both halves of 32 lanes whose steps lie side by side: words become columns.
inline void turn_lanes(const uint16_t* from, int64_t lane_stride, uint16_t* to) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Words line[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) line[i] = load_words(from + (half * 16 + i) * lane_stride);
    turn(line);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) store_words(to + i * 2 * kLanes + half * kLanes, line[i]);
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

inline void pack_rows(const Bf16Kernel&, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes,
                      int64_t k, void* to) {
  for_each_block(from, lane_stride, k_stride, lanes, k, static_cast<uint16_t*>(to), kLanes * kBlock,
                 [](const uint16_t* f, int64_t by_lane, int64_t by_k, uint16_t* t) {
                   if (by_k == 1) {
                     for (int i = 0; i < kLanes; ++i) store_words(t + i * kBlock, load_words(f + i * by_lane));
                     return;
                   }
                   Words low[16], high[16];
                   for (int p = 0; p < 16; ++p) interleave(f + 2 * p * by_k, f + (2 * p + 1) * by_k, low[p], high[p]);
                   turn(low), turn(high);
                   for (int i = 0; i < 16; ++i) store_words(t + i * kBlock, low[i]);
                   for (int i = 0; i < 16; ++i) store_words(t + (16 + i) * kBlock, high[i]);
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
// 16 numbers to nearest even; the quiet bit keeps a NaN one.
inline HalfLine rounded(Words bits) {
  const Words magnitude = bits & 0x7fffffff;
  const Words even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
  return __builtin_convertvector(magnitude > 0x7f800000 ? quiet : even, HalfLine);
}

inline void load_block(const Bf16Kernel&, float* block, const void* c, bool c_is_bf16, int64_t c_stride, int64_t count,
                       int64_t width) {
  const auto* halves = static_cast<const uint16_t*>(c);
  const auto* floats = static_cast<const float*>(c);
  for (int64_t i = 0; i < count; ++i, block += kLanes) {
    for (int64_t j = 0; j < width; ++j)
      block[j] = c_is_bf16 ? widened(halves[i * c_stride + j]) : floats[i * c_stride + j];
    for (int64_t j = width; j < kLanes; ++j) block[j] = 0;
  }
}

inline void store_block(const Bf16Kernel&, const float* block, void* c, bool c_is_bf16, int64_t c_stride, int64_t count,
                        int64_t width) {
  auto* halves = static_cast<uint16_t*>(c);
  auto* floats = static_cast<float*>(c);
  for (int64_t i = 0; i < count; ++i, block += kLanes, halves += c_stride, floats += c_stride) {
    if (!c_is_bf16) {
      __builtin_memcpy(floats, block, std::size_t(width) * sizeof(float));
    } else if (width == kLanes) {
      const HalfLine low = rounded(load_words(block)), high = rounded(load_words(block + 16));
      __builtin_memcpy(halves, &low, sizeof low), __builtin_memcpy(halves + 16, &high, sizeof high);
    } else {
      for (int64_t j = 0; j < width; ++j) halves[j] = rounded(block[j]);
    }
  }
}

// Products on tiles of 16 rows of 64 bytes. Tiles names the instructions: zero<T>, load<T>(from, bytes between rows),
// store<T>, multiply<C, A, B>: C += the products of A's rows of pairs with B's columns of pairs.
template <class Tiles>
struct TileProducts {
  static constexpr int64_t kHalf = 16;  // rows or columns of a tile of sums

  static void multiply(const Bf16Kernel&, int64_t count, int64_t k, const void* a, const void* b, float* c,
                       int64_t c_stride, bool from_c) {
    const auto* rows = static_cast<const uint16_t*>(a);
    const auto* columns = static_cast<const uint16_t*>(b);
    if (count > kHalf) both_halves(k, rows, columns, c, c_stride, from_c);
    else one_half(k, rows, columns, c, c_stride, from_c);
  }

  static void both_halves(int64_t k, const uint16_t* a, const uint16_t* b, float* c, int64_t c_stride, bool from_c) {
    const int64_t stride = c_stride * 4;
    float* const below = c + kHalf * c_stride;
    if (from_c) {
      Tiles::template load<0>(c, stride), Tiles::template load<1>(c + kHalf, stride);
      Tiles::template load<2>(below, stride), Tiles::template load<3>(below + kHalf, stride);
    } else {
      Tiles::template zero<0>(), Tiles::template zero<1>(), Tiles::template zero<2>(), Tiles::template zero<3>();
    }
    for (int64_t p = 0; p < k; p += kBlock, a += kLanes * kBlock, b += kLanes * kBlock) {
      for (int64_t i = 0; i < kLanes; ++i) __builtin_prefetch(a + (kLanes + i) * kBlock);  // the next step's rows
      Tiles::template load<4>(a, 64), Tiles::template load<6>(b, 128);
      Tiles::template multiply<0, 4, 6>();
      Tiles::template load<7>(b + kLanes, 128);
      Tiles::template multiply<1, 4, 7>();
      Tiles::template load<5>(a + kHalf * kBlock, 64);
      Tiles::template multiply<2, 5, 6>(), Tiles::template multiply<3, 5, 7>();
    }
    Tiles::template store<0>(c, stride), Tiles::template store<1>(c + kHalf, stride);
    Tiles::template store<2>(below, stride), Tiles::template store<3>(below + kHalf, stride);
  }

  static void one_half(int64_t k, const uint16_t* a, const uint16_t* b, float* c, int64_t c_stride, bool from_c) {
    const int64_t stride = c_stride * 4;
    if (from_c) Tiles::template load<0>(c, stride), Tiles::template load<1>(c + kHalf, stride);
    else Tiles::template zero<0>(), Tiles::template zero<1>();
    for (int64_t p = 0; p < k; p += kBlock, a += kLanes * kBlock, b += kLanes * kBlock) {
      Tiles::template load<4>(a, 64);
      Tiles::template load<6>(b, 128), Tiles::template load<7>(b + kLanes, 128);
      Tiles::template multiply<0, 4, 6>(), Tiles::template multiply<1, 4, 7>();
    }
    Tiles::template store<0>(c, stride), Tiles::template store<1>(c + kHalf, stride);
  }

  // Few rows: w stays as it lies and takes the place of rows, x that of columns, so the sums come out turned over.
  static void multiply_few(int64_t k, const uint16_t* w, int64_t row_stride, int64_t block_stride, int64_t ahead,
                           const void* x, float* to, bool from_to) {
    const auto* columns = static_cast<const uint16_t*>(x);
    const int64_t stride = row_stride * 2;
    if (from_to) Tiles::template load<0>(to, 64), Tiles::template load<1>(to + kHalf * kHalf, 64);
    else Tiles::template zero<0>(), Tiles::template zero<1>();
    for (int64_t p = 0; p < k; p += kBlock, w += block_stride, columns += kHalf * kBlock) {
      for (int64_t i = 0; i < kLanes; ++i) __builtin_prefetch(w + i * row_stride + ahead);
      Tiles::template load<6>(columns, 64);
      Tiles::template load<4>(w, stride), Tiles::template multiply<0, 4, 6>();
      Tiles::template load<5>(w + kHalf * row_stride, stride), Tiles::template multiply<1, 5, 6>();
    }
    Tiles::template store<0>(to, 64), Tiles::template store<1>(to + kHalf * kHalf, 64);
  }

  // At most 16 rows of x as columns of pairs, zeros for those that are not there.
  static void pack_few(const Bf16Kernel&, const uint16_t* from, int64_t lane_stride, int64_t k_stride, int64_t lanes,
                       int64_t k, void* to) {
    for_each_block(from, lane_stride, k_stride, lanes < kHalf ? lanes : kHalf, k, static_cast<uint16_t*>(to),
                   kHalf * kBlock, [](const uint16_t* f, int64_t by_lane, int64_t by_k, uint16_t* t) {
                     alignas(64) uint16_t both[kLanes * kBlock];
                     pack_columns(Bf16Kernel{}, f, by_lane, by_k, kHalf, kBlock, both);
                     for (int p = 0; p < kBlock / 2; ++p)
                       store_words(t + p * 2 * kHalf, load_words(both + p * 2 * kLanes));
                   });
  }

  static constexpr Bf16Kernel kernel() {
    return {.rows = kLanes,
            .columns = kLanes,
            .step = kBlock,
            .row_grain = kHalf,
            .element_bytes = 2,
            .pack_rows = pack_rows,
            .pack_columns = pack_columns,
            .multiply = multiply,
            .load_block = load_block,
            .store_block = store_block,
            .begin = Tiles::begin,
            .end = Tiles::end,
            .few = kHalf,
            .pack_few = pack_few,
            .multiply_few = multiply_few};
  }
};

}  // namespace
}  // namespace fulgur::cpu

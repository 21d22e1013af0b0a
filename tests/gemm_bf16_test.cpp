// The matrix product of bf16 runs, on every kernel that this CPU has and on the tile kernel with its instructions
// emulated: sums that do not depend on company, threads or cuts, close to f64, and rounded once.
#include "ops/cpu/gemm_bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "ops/cpu/bf16_body.h"
#include "ops/cpu/bf16_tiles.h"
#include "ops/cpu/bf16_widened.h"

namespace fulgur::cpu {
namespace {

// TDPBF16PS as Intel's manual defines it: even and odd steps of a block are summed apart, then together, then added.
struct EmulatedTiles {
  alignas(64) static thread_local uint8_t tiles[8][16][64];
  static void begin() {}
  static void end() {}
  template <int kTile>
  static void zero() {
    std::memset(tiles[kTile], 0, sizeof tiles[kTile]);
  }
  template <int kTile>
  static void load(const void* from, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row)
      std::memcpy(tiles[kTile][row], static_cast<const uint8_t*>(from) + row * row_bytes, 64);
  }
  template <int kTile>
  static void store(void* to, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) std::memcpy(static_cast<uint8_t*>(to) + row * row_bytes, tiles[kTile][row], 64);
  }
  static float half(int tile, int row, int column) {
    uint16_t bits = 0;
    std::memcpy(&bits, &tiles[tile][row][2 * column], 2);
    return float(std::bit_cast<bf16>(bits));
  }
  template <int kSums, int kRows, int kColumns>
  static void multiply() {
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        float even = 0, odd = 0, sum = 0;
        for (int p = 0; p < 16; ++p) {
          even += half(kRows, m, 2 * p) * half(kColumns, p, 2 * n);
          odd += half(kRows, m, 2 * p + 1) * half(kColumns, p, 2 * n + 1);
        }
        std::memcpy(&sum, &tiles[kSums][m][4 * n], 4);
        sum += even + odd;
        std::memcpy(&tiles[kSums][m][4 * n], &sum, 4);
      }
  }
};
thread_local uint8_t EmulatedTiles::tiles[8][16][64];

struct Named {
  std::string name;
  Bf16Kernel kernel;
};

std::vector<Named> kernels() {
  std::vector<Named> all = {{"generic", bf16_kernel_widened(Isa::generic)},
                            {"emulated tiles", TileProducts<EmulatedTiles>::kernel()}};
  for (const Isa isa : {Isa::neon, Isa::avx2, Isa::avx512}) {
    if (has(isa)) all.push_back({std::string("widened on ") + name_of(isa), bf16_kernel_widened(isa)});
  }
  if (has_avx512_bf16() && bf16_kernel_avx512() != nullptr) all.push_back({"avx512_bf16", *bf16_kernel_avx512()});
  if (has(Isa::amx) && bf16_kernel_amx() != nullptr) all.push_back({"amx", *bf16_kernel_amx()});
  return all;
}

enum class Along { rows, columns };  // which neighbours lie side by side

struct Stored {
  DType dtype;
  std::vector<bf16> halves;
  std::vector<float> floats;
  int64_t row_stride, column_stride;
  Bf16Input input() const {
    const void* const data =
        dtype == DType::bf16 ? static_cast<const void*>(halves.data()) : static_cast<const void*>(floats.data());
    return {data, dtype, row_stride, column_stride};
  }
  double at(int64_t i, int64_t j) const { return double(float(halves[size_t(i * row_stride + j * column_stride)])); }
};

// f32 matrices hold numbers that bf16 must round.
Stored matrix(DType dtype, int64_t rows, int64_t columns, Along along, uint64_t seed) {
  const int64_t pitch = (along == Along::rows ? columns : rows) + 3;
  Stored s{dtype, {}, {}, along == Along::rows ? pitch : 1, along == Along::rows ? 1 : pitch};
  const int64_t count = pitch * (along == Along::rows ? rows : columns);
  for (int64_t i = 0; i < count; ++i) {
    s.floats.push_back(2 * float(unit_interval(philox(seed, uint64_t(i), 0)[0])) - 1);
    s.halves.push_back(bf16(s.floats.back()));
  }
  return s;
}

constexpr float kUntouched = 77;

// A product with all it reads. Its outputs lie in rows of n + 1 numbers, the last of which must stay as it is.
struct Sample {
  int64_t m, n, k;
  Stored a, b;
  std::vector<float> before;
  Sample(int64_t m_, int64_t n_, int64_t k_, Along a_along = Along::rows, Along b_along = Along::columns,
         DType a_type = DType::bf16, DType b_type = DType::bf16)
      : m(m_), n(n_), k(k_), a(matrix(a_type, m, k, a_along, 1)), b(matrix(b_type, k, n, b_along, 2)) {
    for (int64_t i = 0; i < m * (n + 1); ++i)
      before.push_back(i % (n + 1) == n ? kUntouched : float(unit_interval(philox(3, uint64_t(i), 0)[0])));
  }
  template <class Run>
  std::vector<float> result(const Run& run, Store store = Store::overwrite) const {
    std::vector<float> c = before;
    run(Bf16Product{{c.data(), DType::f32, n + 1}, a.input(), b.input(), m, n, k, store});
    return c;
  }
  std::vector<float> on(const Bf16Kernel& kernel, Store store = Store::overwrite) const {
    return result([&](const Bf16Product& p) { multiply_tile(kernel, p); }, store);
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Every output within the rounding of k f32 additions of the exact sum.
void expect_close(const Sample& s, const std::vector<float>& c, Store store) {
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = store == Store::add ? double(s.before[size_t(i * (s.n + 1) + j)]) : 0, size = std::abs(sum);
      for (int64_t p = 0; p < s.k; ++p)
        sum += s.a.at(i, p) * s.b.at(p, j), size += std::abs(s.a.at(i, p) * s.b.at(p, j));
      ASSERT_NEAR(c[size_t(i * (s.n + 1) + j)], sum, 1e-6 * size + 1e-30) << i << "," << j;
    }
    ASSERT_EQ(c[size_t(i * (s.n + 1) + s.n)], kUntouched);
  }
}

struct Shape {
  int64_t m, n, k;
};
constexpr Shape kShapes[] = {{1, 1, 1},      {1, 40, 70},   {3, 33, 31},   {16, 64, 64},  {17, 64, 96},
                             {32, 32, 32},   {33, 31, 1},   {48, 96, 33},  {65, 130, 67}, {70, 40, 600},
                             {64, 32, 2200}, {40, 300, 64}, {129, 270, 96}};

TEST(Bf16Products, EqualExactSumsInEveryLayout) {
  for (const Named& named : kernels()) {
    for (const Shape& s : kShapes) {
      for (const int layout : {0, 1, 2, 3}) {
        SCOPED_TRACE(named.name + ": " + std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k));
        const Sample sample(s.m, s.n, s.k, layout & 1 ? Along::columns : Along::rows,
                            layout & 2 ? Along::columns : Along::rows, layout == 3 ? DType::f32 : DType::bf16,
                            layout == 1 ? DType::f32 : DType::bf16);
        const Store store = layout == 2 ? Store::add : Store::overwrite;
        expect_close(sample, sample.on(named.kernel, store), store);
      }
    }
  }
}

// f32 operands are rounded to nearest even first: the sums are those of the rounded numbers, bit for bit.
TEST(Bf16Products, RoundF32OperandsFirst) {
  constexpr float kOdd[] = {1 + 0x1p-8F,    1 + 0x3p-8F, 1 + 0x1.01p-8F, 0x1.fffffcp-127F,
                            0x1.ff0002p-1F, -0x1p-130F,  0x1.ffp127F,    -INFINITY};
  for (const Named& named : kernels()) {
    Sample rounded(37, 70, 100, Along::rows, Along::rows);
    Sample floats(37, 70, 100, Along::rows, Along::rows, DType::f32, DType::f32);
    for (size_t i = 0; i < std::size(kOdd); ++i)
      for (Sample* s : {&rounded, &floats}) s->b.floats[i * 74] = kOdd[i], s->b.halves[i * 74] = bf16(kOdd[i]);
    EXPECT_TRUE(same_bits(rounded.on(named.kernel), floats.on(named.kernel))) << named.name;
  }
}

// Row i of a product of many rows is row i of any other product of rows, and so are columns.
TEST(Bf16Products, DoNotDependOnCompany) {
  for (const Named& named : kernels()) {
    for (const int64_t k : {70, 96, 1100}) {
      for (const Store store : {Store::overwrite, Store::add}) {
        const Sample s(71, 75, k);
        const std::vector<float> whole = s.on(named.kernel, store);
        for (const int64_t rows : {1, 2, 5, 15, 16, 17, 24, 31, 32, 33, 64, 70}) {
          for (const int64_t first : {int64_t(0), 71 - rows}) {
            const int64_t column = rows % 7, columns = 75 - column - rows % 5;
            const auto c = s.result(
                [&](Bf16Product p) {
                  p.c.data = static_cast<float*>(p.c.data) + first * p.c.row_stride + column;
                  p.a.data = static_cast<const bf16*>(p.a.data) + first * p.a.row_stride;
                  p.b.data = static_cast<const bf16*>(p.b.data) + column * p.b.column_stride;
                  p.m = rows, p.n = columns;
                  multiply_tile(named.kernel, p);
                },
                store);
            for (int64_t i = 0; i < 71; ++i)
              for (int64_t j = 0; j < 75; ++j) {
                const bool inside = i >= first && i < first + rows && j >= column && j < column + columns;
                const size_t at = size_t(i * 76 + j);
                ASSERT_EQ(c[at], (inside ? whole : s.before)[at]) << named.name << " " << rows << " " << i << "," << j;
              }
          }
        }
      }
    }
  }
}

// A lone row, which kernels may multiply by what lies in memory, is the first of two, which are packed: in both
// layouts, where blocks of steps are not whole, and where products are below the normal numbers.
TEST(Bf16Products, OfALoneRowAreThoseOfTwo) {
  struct Matrix {
    Along along;
    DType dtype;
  };
  for (const Named& named : kernels()) {
    for (const Matrix& b :
         {Matrix{Along::rows, DType::bf16}, {Along::rows, DType::f32}, {Along::columns, DType::bf16}}) {
      for (const int64_t n : {21, 64, 160}) {
        for (const int64_t k : {1, 29, 30, 31, 64, 130}) {
          for (const auto& [scale, store] : {std::pair{1.0F, Store::overwrite}, {0x1p-64F, Store::add}}) {
            Sample s(2, n, k, Along::rows, b.along, DType::bf16, b.dtype);
            for (bf16& x : s.a.halves) x = bf16(float(x) * scale);
            for (bf16& x : s.b.halves) x = bf16(float(x) * scale);
            for (float& x : s.b.floats) x *= scale;
            for (float& x : s.before) x = x == kUntouched ? x : -0.0F;
            const std::vector<float> two = s.on(named.kernel, store);
            const auto one = s.result(
                [&](Bf16Product p) {
                  p.m = 1;
                  multiply_tile(named.kernel, p);
                },
                store);
            ASSERT_EQ(std::memcmp(one.data(), two.data(), size_t(n + 1) * sizeof(float)), 0)
                << named.name << " " << n << " columns, " << k << " steps";
          }
        }
      }
    }
  }
}

// A sum that is cut goes on as another call would: the blocks of 32 steps begin anew at every cut.
TEST(Bf16Products, CutSumsAreThoseOfSeveralCalls) {
  for (const Named& named : kernels()) {
    const Sample s(40, 70, 700, Along::columns, Along::rows);
    const int64_t cuts[] = {37, 37, 101, 640, 700};
    const auto once = s.result(
        [&](Bf16Product p) {
          p.cuts = cuts, p.cut_count = 5;
          multiply_tile(named.kernel, p);
        },
        Store::add);
    const auto several = s.result(
        [&](Bf16Product p) {
          for (int64_t begin = 0; const int64_t end : cuts) {
            Bf16Product part = p;
            part.a.data = static_cast<const bf16*>(p.a.data) + begin * p.a.column_stride;
            part.b.data = static_cast<const bf16*>(p.b.data) + begin * p.b.row_stride;
            part.k = end - begin, begin = end;
            multiply_tile(named.kernel, part);
          }
        },
        Store::add);
    EXPECT_TRUE(same_bits(once, several)) << named.name;
  }
}

// Steps whose products are all zero, at the end of k, change no sum.
TEST(Bf16Products, ZerosAtTheEndChangeNothing) {
  for (const Named& named : kernels()) {
    Sample s(20, 40, 190);
    for (int64_t i = 0; i < s.m; ++i)
      for (int64_t p = 65; p < s.k; ++p) s.a.halves[size_t(i * s.a.row_stride + p * s.a.column_stride)] = bf16(0.0F);
    const auto shorter = s.result([&](Bf16Product p) {
      p.k = 65;
      multiply_tile(named.kernel, p);
    });
    EXPECT_TRUE(same_bits(s.on(named.kernel), shorter)) << named.name;
  }
}

TEST(Bf16Products, RoundABf16OutputOnce) {
  for (const Named& named : kernels()) {
    for (const auto& [m, k] : {std::pair{5, 130}, {40, 130}, {40, 2200}}) {
      for (const Store store : {Store::overwrite, Store::add}) {
        Sample s(m, 45, k);
        for (float& x : s.before) x = float(bf16(x));
        const std::vector<float> wide = s.on(named.kernel, store);
        std::vector<bf16> c;
        for (const float x : s.before) c.emplace_back(x);
        multiply_tile(named.kernel, {{c.data(), DType::bf16, s.n + 1}, s.a.input(), s.b.input(), m, s.n, s.k, store});
        for (size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i].bits, bf16(wide[i]).bits) << named.name << " " << i;
      }
    }
  }
}

// Whole lines too, sums that are below the normal numbers and sums that are infinite or NaN.
TEST(Bf16Products, RoundWholeLinesOnce) {
  for (const Named& named : kernels()) {
    for (const float scale : {1.0F, 0x1p-66F, 0x1p66F}) {
      Sample s(33, 64, 96);
      for (bf16& x : s.a.halves) x = bf16(float(x) * scale);
      for (bf16& x : s.b.halves) x = bf16(float(x) * scale);
      const std::vector<float> wide = s.on(named.kernel);
      std::vector<bf16> c(wide.size(), bf16(kUntouched));
      multiply_tile(named.kernel, {{c.data(), DType::bf16, s.n + 1}, s.a.input(), s.b.input(), s.m, s.n, s.k});
      for (size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i].bits, bf16(wide[i]).bits) << named.name << " " << i;
    }
  }
}

TEST(Bf16Products, OfNoStepsAreZero) {
  for (const Named& named : kernels()) {
    const Sample s(3, 5, 0);
    for (const float x : s.on(named.kernel)) EXPECT_TRUE(x == 0 || x == kUntouched);
    EXPECT_TRUE(same_bits(s.on(named.kernel, Store::add), s.before));
  }
}

// Without pairs or blocks the sum is one fma chain over k, as in f32 runs.
TEST(Bf16Products, AreOneChainWhereBf16IsWidened) {
  const Sample s(9, 21, 77);
  std::vector<float> wanted = s.before;
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j)
      for (int64_t p = 0; p < s.k; ++p) {
        float& sum = wanted[size_t(i * (s.n + 1) + j)];
        sum = std::fma(float(s.a.at(i, p)), float(s.b.at(p, j)), sum);
      }
  for (const Isa isa : {Isa::generic, Isa::neon, Isa::avx2, Isa::avx512}) {
    if (!has(isa)) continue;
    EXPECT_TRUE(same_bits(s.on(bf16_kernel_widened(isa), Store::add), wanted)) << name_of(isa);
  }
}

// The manual's definition is what the hardware does.
TEST(Bf16Products, EmulatedTilesEqualHardware) {
  if (!has(Isa::amx)) return;  // then there is nothing to compare
  for (const Shape& s : kShapes) {
    const Sample sample(s.m, s.n, s.k);
    EXPECT_TRUE(same_bits(sample.on(TileProducts<EmulatedTiles>::kernel()), sample.on(*bf16_kernel_amx())));
  }
}

TEST(Bf16Products, DoNotDependOnThreads) {
  const Sample s(150, 140, 300);
  const std::vector<float> wanted = s.on(bf16_kernel(isa()));
  for (const int threads : {1, 2, 3}) {
    Threads pool(threads);
    EXPECT_TRUE(same_bits(s.result([&](const Bf16Product& p) { gemm(pool, p); }), wanted));
  }
  EXPECT_TRUE(same_bits(s.result([](const Bf16Product& p) { gemm_serial(p); }), wanted));
}

}  // namespace
}  // namespace fulgur::cpu

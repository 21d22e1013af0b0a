// The matrix product: every output is the scalar fma chain over k ascending, bit for bit, on every instruction set, for
// every shape, layout, number of threads and company.
#include "ops/cpu/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "base/random.h"
#include "ops/cpu/gemm_tiles.h"

namespace fulgur::cpu {
namespace {

enum class Layout { rows, columns, spread };  // which neighbours lie side by side

template <class T>
struct Stored {
  std::vector<T> memory;
  Matrix<const T> matrix;
};

template <class T>
Stored<T> random_matrix(int64_t rows, int64_t columns, Layout layout, uint64_t seed) {
  Stored<T> s;
  s.memory.resize(size_t(3 * (rows + 1) * (columns + 1)));
  for (size_t i = 0; i < s.memory.size(); ++i) s.memory[i] = T(2 * unit_interval(philox(seed, i, 0)[0]) - 1);
  switch (layout) {
    case Layout::rows: s.matrix = {s.memory.data(), columns + 1, 1}; break;
    case Layout::columns: s.matrix = {s.memory.data(), 1, rows + 1}; break;
    case Layout::spread: s.matrix = {s.memory.data(), 3 * columns, 2}; break;
  }
  return s;
}

// A product with all it reads and writes. c has a column more than it needs, which must stay as it is.
template <class T>
struct Sample {
  int64_t m, n, k;
  Store store;
  Stored<T> a, b, c;

  Sample(int64_t m_, int64_t n_, int64_t k_, Layout a_layout, Layout b_layout, Store store_)
      : m(m_), n(n_), k(k_), store(store_) {
    a = random_matrix<T>(m, k, a_layout, 1);
    b = random_matrix<T>(k, n, b_layout, 2);
    c = random_matrix<T>(m, n, Layout::rows, 3);
  }

  Product<T> into(std::vector<T>& outputs) const {
    return {{outputs.data(), n + 1, 1}, a.matrix, b.matrix, m, n, k, store};
  }

  std::vector<T> wanted() const {
    std::vector<T> outputs = c.memory;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        T& sum = outputs[size_t(i * (n + 1) + j)];
        if (store == Store::overwrite) sum = 0;
        for (int64_t p = 0; p < k; ++p)
          sum = std::fma(a.matrix.data[i * a.matrix.row_stride + p * a.matrix.column_stride],
                         b.matrix.data[p * b.matrix.row_stride + j * b.matrix.column_stride], sum);
      }
    }
    return outputs;
  }

  template <class Run>
  std::vector<T> result(Run run) const {
    std::vector<T> outputs = c.memory;
    run(into(outputs));
    return outputs;
  }
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
const GemmKernel<T>& kernel_of(const GemmKernels& kernels) {
  if constexpr (std::is_same_v<T, float>) {
    return kernels.f32;
  } else {
    return kernels.f64;
  }
}

struct Shape {
  int64_t m, n, k;
};

// Around the tiles of every instruction set, the vectors of every width, and the blocks of k.
constexpr Shape kShapes[] = {{1, 1, 1},    {1, 16, 7},   {2, 33, 16},  {3, 5, 255},   {6, 16, 8},    {7, 17, 65},
                             {13, 31, 17}, {14, 32, 32}, {15, 33, 33}, {4, 129, 257}, {28, 64, 256}, {29, 65, 129},
                             {57, 96, 40}, {65, 129, 7}, {129, 17, 1}, {5, 70, 600},  {1, 300, 513}, {70, 1, 300}};

template <class T>
class Gemm : public testing::Test {};
using Elements = testing::Types<float, double>;
TYPED_TEST_SUITE(Gemm, Elements);

TYPED_TEST(Gemm, EveryInstructionSetRunsTheScalarChain) {
  using T = TypeParam;
  constexpr Layout kLayouts[] = {Layout::rows, Layout::columns, Layout::spread};
  for (const Isa isa : {Isa::generic, Isa::neon, Isa::avx2, Isa::avx512}) {
    const GemmKernels* const kernels = gemm_kernels(isa);
    if (kernels == nullptr) continue;
    for (const Shape& s : kShapes) {
      for (int layouts = 0; layouts < 9; ++layouts) {
        const Store store = layouts % 2 == 0 ? Store::overwrite : Store::add;
        const Sample<T> sample(s.m, s.n, s.k, kLayouts[layouts / 3], kLayouts[layouts % 3], store);
        const auto have = sample.result([&](const Product<T>& p) { multiply_tile(kernel_of<T>(*kernels), p); });
        EXPECT_TRUE(same_bits(have, sample.wanted()))
            << name_of(isa) << " m " << s.m << " n " << s.n << " k " << s.k << " layouts " << layouts;
      }
    }
  }
}

TYPED_TEST(Gemm, ThreadsDoNotChangeTheBits) {
  using T = TypeParam;
  for (const Shape& s : {Shape{1, 700, 300}, Shape{300, 40, 300}, Shape{130, 150, 270}, Shape{1500, 20, 50}}) {
    for (const Store store : {Store::overwrite, Store::add}) {
      const Sample<T> sample(s.m, s.n, s.k, Layout::rows, Layout::columns, store);
      const std::vector<T> want = sample.wanted();
      EXPECT_TRUE(same_bits(sample.result([](const Product<T>& p) { gemm_serial(p); }), want)) << s.m;
      for (const int count : {1, 2, 3}) {
        Threads threads(count);
        EXPECT_TRUE(same_bits(sample.result([&](const Product<T>& p) { gemm(threads, p); }), want))
            << "m " << s.m << " threads " << count;
      }
    }
  }
}

// More rows than a block of packed a holds, and blocks of k that end between them.
TYPED_TEST(Gemm, RunsTheScalarChainThroughManyBlocks) {
  using T = TypeParam;
  const Sample<T> sample(2100, 3, 520, Layout::rows, Layout::columns, Store::add);
  EXPECT_TRUE(same_bits(sample.result([](const Product<T>& p) { gemm_serial(p); }), sample.wanted()));
}

TYPED_TEST(Gemm, ARowDoesNotDependOnItsNeighbours) {
  using T = TypeParam;
  Threads threads(2);
  const Sample<T> sample(37, 50, 300, Layout::rows, Layout::columns, Store::overwrite);
  const std::vector<T> together = sample.result([&](const Product<T>& p) { gemm(threads, p); });
  const std::vector<T> alone = sample.result([&](const Product<T>& all) {
    for (int64_t row = 0; row < sample.m; ++row) {
      Product<T> p = all;
      p.m = 1, p.c.data += row * p.c.row_stride, p.a.data += row * p.a.row_stride;
      gemm(threads, p);
    }
  });
  EXPECT_TRUE(same_bits(together, alone));
}

TYPED_TEST(Gemm, WithoutStepsOfKWritesZerosOrLeavesC) {
  using T = TypeParam;
  Threads threads(2);
  for (const Store store : {Store::overwrite, Store::add}) {
    const Sample<T> sample(5, 7, 0, Layout::rows, Layout::rows, store);
    EXPECT_TRUE(same_bits(sample.result([&](const Product<T>& p) { gemm(threads, p); }), sample.wanted()));
  }
  for (const Shape& s : {Shape{0, 7, 3}, Shape{5, 0, 3}, Shape{0, 0, 0}}) {
    const Sample<T> sample(s.m, s.n, s.k, Layout::rows, Layout::rows, Store::overwrite);
    EXPECT_TRUE(same_bits(sample.result([&](const Product<T>& p) { gemm(threads, p); }), sample.c.memory));
    EXPECT_TRUE(same_bits(sample.result([&](const Product<T>& p) { gemm_serial(p); }), sample.c.memory));
  }
}

TYPED_TEST(Gemm, ABatchEqualsItsProducts) {
  using T = TypeParam;
  const int64_t rows[] = {0, 1, 90, 0, 17, 400, 3, 0};
  for (const int count : {1, 2, 3}) {
    Threads threads(count);
    std::vector<Sample<T>> samples;
    std::vector<std::vector<T>> outputs;
    std::vector<Product<T>> products;
    for (const int64_t m : rows)
      samples.emplace_back(m, 60, 110, Layout::rows, Layout::columns, m % 2 ? Store::add : Store::overwrite);
    samples.emplace_back(9, 9, 0, Layout::rows, Layout::rows, Store::overwrite);
    for (const Sample<T>& sample : samples) outputs.push_back(sample.c.memory);
    for (size_t i = 0; i < samples.size(); ++i) products.push_back(samples[i].into(outputs[i]));
    gemm_batch(threads, products.data(), int64_t(products.size()));
    for (size_t i = 0; i < samples.size(); ++i)
      EXPECT_TRUE(same_bits(outputs[i], samples[i].wanted())) << "product " << i << " threads " << count;
  }
}

}  // namespace
}  // namespace fulgur::cpu

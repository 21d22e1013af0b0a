// cross_entropy against an f64 oracle, its gradient against central differences, rows that do not count.
#include "ops/cross_entropy.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kScale = 0.23;

struct Pass {
  Bench bench{size_t(1) << 23};
  Tensor start, logits, targets, loss, scale;

  Pass(DType type, int64_t rows, int64_t vocab) {
    start = bench.random(type, {rows, vocab}, 1, 5, 60), logits = bench.converted(start, type);
    loss = bench.random(DType::f64, {1}, 2), scale = bench.zeros(DType::f64, {1});
    set(scale, 0, kScale);
    std::vector<int64_t> ids;
    for (int64_t row = 0; row < rows; ++row)
      ids.push_back(row % 5 == 2 ? -1 : int64_t(philox(3, uint64_t(row), 0)[0] % uint64_t(vocab)));
    targets = bench.indices(DType::i32, ids);
  }
  void run(Stream& stream, int64_t begin, int64_t end) const {
    cross_entropy(
        stream, {.loss = loss, .logits = logits.rows(begin, end), .targets = targets.rows(begin, end), .scale = scale});
  }
};

TEST(CrossEntropy, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t rows : {1, 7, 65})
      for (const int64_t vocab : {1, 17, 130, 9000, 40000}) {  // 40000: more than a row's threads keep
        if (vocab > 130 && rows > 7) continue;
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << vocab);
        Pass p(type, rows, vocab);
        CaseStream stream;
        const Tensor gradient = p.bench.zeros(DType::f64, {rows, vocab});
        double loss = get(p.loss, 0);
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t target = int64_t(get(p.targets, row));
          if (target < 0) continue;
          double sum = 0;
          for (int64_t i = row * vocab; i < (row + 1) * vocab; ++i) sum += std::exp(get(p.start, i));
          loss -= kScale * std::log(std::exp(get(p.start, row * vocab + target)) / sum);
          for (int64_t i = row * vocab; i < (row + 1) * vocab; ++i)
            set(gradient, i, kScale * (std::exp(get(p.start, i)) / sum - (i % vocab == target ? 1 : 0)));
        }
        p.run(stream, 0, rows);
        const double bound = type == DType::f64 ? 1e-12 : 1e-6;
        EXPECT_NEAR(get(p.loss, 0), loss, bound * std::max(1.0, std::abs(loss)));
        EXPECT_LE(relative_gap(p.logits, gradient), bound);
      }
}

TEST(CrossEntropy, GradientEqualsCentralDifferences) {
  Pass p(DType::f64, 7, 9);
  CaseStream stream;
  p.run(stream, 0, 7);
  const Tensor gradient = p.bench.converted(p.logits, DType::f64);
  const auto loss = [&] {
    set(p.loss, 0, 0);
    copy(stream, p.logits, p.start);
    p.run(stream, 0, 7);
    return get(p.loss, 0);
  };
  EXPECT_LE(gradient_gap(loss, p.start, gradient), 1e-7);
}

TEST(CrossEntropy, ThreadsDoNotChangeBits) {
  const Pass one(DType::f32, 65, 130), three(DType::f32, 65, 130);
  CaseStream first, second({}, 3);
  one.run(first, 0, 65), three.run(second, 0, 65);
  EXPECT_TRUE(same_bits(one.loss, three.loss) && same_bits(one.logits, three.logits));
}

TEST(CrossEntropy, HalvesAccumulateToTheWhole) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t cut : {30, 32}) {  // CUDA adds pieces of 32 rows
      const Pass whole(type, 65, 130), halves(type, 65, 130);
      CaseStream stream({}, 2);
      whole.run(stream, 0, 65);
      halves.run(stream, 0, cut), halves.run(stream, cut, 65);
      EXPECT_NEAR(get(whole.loss, 0), get(halves.loss, 0), 1e-13 * std::abs(get(whole.loss, 0)));
      EXPECT_TRUE(cut != 32 || same_bits(whole.loss, halves.loss));
      EXPECT_TRUE(same_bits(whole.logits, halves.logits));
    }
}

// Rounded once from what would have taken the logits' place.
TEST(CrossEntropy, ItsGradientMayLieBesideTheLogits) {
  for (const int64_t vocab : {17, 130, 9000, 40000}) {
    const Pass in_place(DType::f32, 7, vocab);
    Pass beside(DType::f32, 7, vocab);
    CaseStream stream({}, 2);
    in_place.run(stream, 0, 7);
    const Tensor gradient = beside.bench.zeros(DType::bf16, {7, vocab});
    cross_entropy(stream, {.loss = beside.loss,
                           .logits = beside.logits,
                           .targets = beside.targets,
                           .scale = beside.scale,
                           .gradient = gradient});
    EXPECT_TRUE(same_bits(beside.loss, in_place.loss));
    EXPECT_TRUE(same_bits(gradient, beside.bench.converted(in_place.logits, DType::bf16)));
  }
}

TEST(CrossEntropy, RowsThatDoNotCountAreZero) {
  Pass p(DType::f32, 3, 17);  // row 2 does not count
  CaseStream stream;
  const double before = get(p.loss, 0);
  for (int64_t i = 0; i < 17; ++i) set(p.logits, 2 * 17 + i, NAN);
  p.run(stream, 2, 3);
  EXPECT_EQ(get(p.loss, 0), before);
  for (int64_t i = 0; i < 17; ++i) EXPECT_EQ(get(p.logits, 2 * 17 + i), 0);
}

TEST(CrossEntropy, LargeLogitsStayFinite) {
  Pass p(DType::f32, 1, 2);
  CaseStream stream;
  set(p.loss, 0, 0), set(p.logits, 0, 3e38), set(p.logits, 1, 3e38), set(p.targets, 0, 1);
  p.run(stream, 0, 1);
  EXPECT_NEAR(get(p.loss, 0), kScale * std::log(2), 1e-15);
  EXPECT_FLOAT_EQ(float(get(p.logits, 0)), float(kScale / 2));
}

TEST(CrossEntropy, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 17);
  CaseStream stream;
  CrossEntropy op{.loss = p.loss, .logits = p.logits, .targets = p.targets.rows(0, 6), .scale = p.scale};
  EXPECT_BROKEN(cross_entropy(stream, op), "one target per row");
  op.targets = p.targets, op.loss = p.bench.zeros(DType::f32, {1});
  EXPECT_BROKEN(cross_entropy(stream, op), "the loss is f64");
  op.loss = p.loss, op.scale = p.bench.zeros(DType::f32, {1});
  EXPECT_BROKEN(cross_entropy(stream, op), "the scale is f64");
  op.scale = p.scale, op.gradient = p.bench.zeros(DType::bf16, {7, 16});
  EXPECT_BROKEN(cross_entropy(stream, op), "the gradient has the shape of the logits");
  op.gradient = {}, op.targets = p.bench.indices(DType::i32, {0, 0, 0, 0, 0, 0, 17});
  EXPECT_BROKEN(cross_entropy(stream, op), "every target is in the vocabulary");
}

}  // namespace
}  // namespace fulgur

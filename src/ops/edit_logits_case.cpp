// edit_logits: every place by the formula, nothing else touched.
#include "ops/edit_logits.h"

#include <limits>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

TEST(EditLogits, ChangesThePlacesAndNothingElse) {
  for (const int64_t edits : {0, 1, 5, 300}) {
    Bench bench(size_t(1) << 20);
    CaseStream stream;
    constexpr int64_t kRows = 7, kVocab = 130;
    const Tensor logits = bench.random(DType::f32, {kRows, kVocab}, 1, 3), want = bench.converted(logits, DType::f32);
    std::vector<int64_t> places;
    const Tensor divisors = bench.empty(DType::f32, {edits}), offsets = bench.random(DType::f32, {edits}, 2);
    for (int64_t i = 0; i < edits; ++i) {
      const int64_t at = i * 37 % (kRows * kVocab);  // 37 has no factor in common with the number of places
      places.push_back(at / kVocab), places.push_back(at % kVocab);
      set(divisors, i, 0.5 + double(i % 4));
      const float logit = float(get(logits, at)), divisor = float(get(divisors, i));
      set(want, at, (logit > 0 ? logit / divisor : logit * divisor) + float(get(offsets, i)));
    }
    edit_logits(stream, {.logits = logits,
                         .places = bench.indices(DType::i32, places).split({edits, 2}),
                         .divisors = divisors,
                         .offsets = offsets});
    EXPECT_TRUE(same_bits(logits, want)) << edits;
  }
}

TEST(EditLogits, BothSignsLoseByADivisor) {
  Bench bench(1 << 16);
  CaseStream stream;
  const Tensor logits = bench.empty(DType::f32, {1, 4});
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < 4; ++i) set(logits, i, std::array{2.0, -2.0, 0.0, kNever}[size_t(i)]);
  const Tensor divisors = bench.empty(DType::f32, {4}), offsets = bench.zeros(DType::f32, {4});
  for (int64_t i = 0; i < 4; ++i) set(divisors, i, 2);
  edit_logits(stream, {.logits = logits,
                       .places = bench.indices(DType::i32, {0, 0, 0, 1, 0, 2, 0, 3}).split({4, 2}),
                       .divisors = divisors,
                       .offsets = offsets});
  EXPECT_EQ(get(logits, 0), 1);
  EXPECT_EQ(get(logits, 1), -4);
  EXPECT_EQ(get(logits, 2), 0);
  EXPECT_EQ(get(logits, 3), kNever);
}

TEST(EditLogitsDeathTest, RefusesWrongOperands) {
  Bench bench(1 << 16);
  CaseStream stream;
  EditLogits op{.logits = bench.random(DType::f32, {2, 3}, 1),
                .places = bench.indices(DType::i32, {0, 3}).split({1, 2}),
                .divisors = bench.random(DType::f32, {1}, 2),
                .offsets = bench.random(DType::f32, {1}, 3)};
  EXPECT_BROKEN(edit_logits(stream, op), "a place lies inside the logits");
  op.offsets = bench.random(DType::f32, {2}, 3);
  EXPECT_BROKEN(edit_logits(stream, op), "one divisor and one offset per place");
  op.logits = bench.random(DType::f64, {2, 3}, 1);
  EXPECT_BROKEN(edit_logits(stream, op), "logits are f32 rows");
}

}  // namespace
}  // namespace fulgur

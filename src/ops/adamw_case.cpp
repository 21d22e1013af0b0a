// adamw against an f64 oracle over several steps: clipping, ranges without decay, rounded weights.
#include "ops/adamw.h"

#include <utility>

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr double kRate = 0.01, kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-3, kDecay = 0.1;

struct Pass {
  Bench bench{size_t(1) << 21};
  int64_t count;
  Tensor master, first, second, gradient, norm, bare, weights;

  Pass(DType type, int64_t count, DType stored) : count(count) {
    master = bench.random(type, {count}, 1), gradient = bench.random(type, {count}, 2);
    first = bench.zeros(type, {count}), second = bench.zeros(type, {count}), norm = bench.zeros(DType::f64, {1});
    weights = bench.empty(stored, {count});
    std::vector<int64_t> edges{
        0, 3, count / 3, count / 3 + count / 4, count - count / 4, count - count / 4, count - count / 5, count};
    for (size_t i = 1; i < edges.size(); ++i) edges[i] = std::min(count, std::max(edges[i], edges[i - 1]));
    bare = bench.indices(DType::i64, edges).split({4, 2});  // at both ends, across a thread's piece, and an empty one
    set(norm, 0, 2.5);
  }
  AdamW operands(int64_t step, double max_norm) const {
    return {.weights = weights,
            .master = master,
            .first = first,
            .second = second,
            .gradient = gradient,
            .gradient_norm = norm,
            .not_decayed = bare,
            .step = step,
            .learning_rate = kRate,
            .beta1 = kBeta1,
            .beta2 = kBeta2,
            .eps = kEps,
            .weight_decay = kDecay,
            .max_norm = max_norm};
  }
  bool decays(int64_t i) const {
    for (int64_t range = 0; range < bare.dim(0); ++range)
      if (double(i) >= get(bare, 2 * range) && double(i) < get(bare, 2 * range + 1)) return false;
    return true;
  }
};

// The textbook's step on f64 copies.
void oracle_step(const Pass& p, int64_t step, double clip, const Tensor& w, const Tensor& m, const Tensor& v) {
  for (int64_t i = 0; i < p.count; ++i) {
    const double g = clip * get(p.gradient, i);
    set(m, i, kBeta1 * get(m, i) + (1 - kBeta1) * g);
    set(v, i, kBeta2 * get(v, i) + (1 - kBeta2) * g * g);
    const double unbiased = get(m, i) / (1 - std::pow(kBeta1, double(step)));
    const double spread = std::sqrt(get(v, i) / (1 - std::pow(kBeta2, double(step))));
    if (p.decays(i)) set(w, i, get(w, i) - kRate * kDecay * get(w, i) - kRate * unbiased / (spread + kEps));
    else set(w, i, get(w, i) - kRate * unbiased / (spread + kEps));
  }
}

TEST(AdamW, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t count : {1, 17, 130, 10000})
      for (const auto& [max_norm, clip] : {std::pair{0.0, 1.0}, std::pair{1.0, 0.4}, std::pair{2.5, 1.0}}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << count << " clipped at " << max_norm);
        Pass p(type, count, type);
        CaseStream stream;
        const Tensor w = p.bench.converted(p.master, DType::f64), start = p.bench.converted(w, DType::f64);
        const Tensor m = p.bench.converted(p.first, DType::f64), v = p.bench.converted(p.second, DType::f64);
        for (const int64_t step : {1, 2, 3, 1000}) {
          for (int64_t i = 0; i < count; ++i) set(p.gradient, i, std::sin(double(3 * i + step)));
          oracle_step(p, step, clip, w, m, v);
          adamw(stream, p.operands(step, max_norm));
        }
        const double bound = type == DType::f64 ? 1e-12 : 1e-6;
        EXPECT_LE(relative_gap(p.first, m), bound);
        EXPECT_LE(relative_gap(p.second, v), bound);
        // What changed, not the weights themselves: these hide an error in a small step.
        double gap = 0, moved = 0;
        for (int64_t i = 0; i < count; ++i) {
          gap = std::max(gap, std::abs(get(p.master, i) - get(w, i)));
          moved = std::max(moved, std::abs(get(w, i) - get(start, i)));
        }
        EXPECT_LE(gap, 10 * bound * moved);
        EXPECT_TRUE(same_bits(p.weights, p.master));
      }
}

TEST(AdamW, WeightsAreTheRoundedMaster) {
  const Pass rounded(DType::f32, 10000, DType::bf16);
  CaseStream stream({}, 3);
  adamw(stream, rounded.operands(1, 1));
  int64_t wrong = 0;
  for (int64_t i = 0; i < rounded.count; ++i)
    wrong += get(rounded.weights, i) != double(float(bf16(float(get(rounded.master, i)))));
  EXPECT_EQ(wrong, 0);
}

TEST(AdamW, NeitherThreadsNorSharesChangeBits) {
  const Pass one(DType::f32, 10000, DType::bf16), three(DType::f32, 10000, DType::bf16);
  Pass shares(DType::f32, 10000, DType::bf16);
  CaseStream first, second({}, 3);
  adamw(first, one.operands(1, 1)), adamw(second, three.operands(1, 1));
  EXPECT_TRUE(same_bits(one.master, three.master) && same_bits(one.weights, three.weights));
  EXPECT_TRUE(same_bits(one.first, three.first) && same_bits(one.second, three.second));
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3000}, std::pair<int64_t, int64_t>{3000, 10000}}) {
    AdamW op = shares.operands(1, 1);
    std::vector<int64_t> bare;
    for (int64_t i = 0; i < shares.bare.count(); ++i)
      bare.push_back(std::clamp(int64_t(get(shares.bare, i)), begin, end) - begin);
    op.not_decayed = shares.bench.indices(DType::i64, bare).split({4, 2});
    for (Tensor* t : {&op.weights, &op.master, &op.first, &op.second, &op.gradient}) *t = t->rows(begin, end);
    adamw(second, op);
  }
  EXPECT_TRUE(same_bits(one.master, shares.master) && same_bits(one.weights, shares.weights));
}

TEST(AdamW, RunsWithoutRangesAndWithoutWeights) {
  Pass p(DType::f32, 130, DType::f32), same(DType::f32, 130, DType::f32);
  CaseStream stream;
  AdamW op = p.operands(1, 0), other = same.operands(1, 0);
  op.not_decayed = p.bench.zeros(DType::i64, {0, 2}), op.weights = {};
  other.not_decayed = same.bench.zeros(DType::i64, {1, 2});
  adamw(stream, op), adamw(stream, other);
  EXPECT_TRUE(same_bits(p.master, same.master));
}

TEST(AdamW, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 130, DType::f32);
  CaseStream stream;
  AdamW op = p.operands(1, 0);
  op.first = p.first.rows(0, 129);
  EXPECT_BROKEN(adamw(stream, op), "moments and gradient match the master");
  op = p.operands(1, 0), op.weights = p.bench.zeros(DType::f64, {130});
  EXPECT_BROKEN(adamw(stream, op), "weights match the master");
  op = p.operands(1, 0), op.gradient_norm = p.bench.zeros(DType::f32, {1});
  EXPECT_BROKEN(adamw(stream, op), "the norm is f64");
  op = p.operands(1, 0), op.not_decayed = p.bench.indices(DType::i64, {5, 9, 8, 12}).split({2, 2});
  EXPECT_BROKEN(adamw(stream, op), "ranges without decay ascend");
  op.not_decayed = p.bench.indices(DType::i64, {5, 131}).split({1, 2});
  EXPECT_BROKEN(adamw(stream, op), "ranges without decay ascend");
}

}  // namespace
}  // namespace fulgur

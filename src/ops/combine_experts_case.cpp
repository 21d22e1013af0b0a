// combine_experts_backward against an f64 oracle and central differences of what residual_norm adds up.
#include "ops/combine_experts.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

// Of sums kept in a type. What is stored as bf16 was rounded once: half a unit in the last of 8 bits.
double bound(DType type) { return type == DType::f64 ? 1e-12 : type == DType::f32 ? 1e-6 : 4e-3; }

struct Pass {
  Bench bench{size_t(1) << 24};
  Tensor x, weights, place, dy, dx, dweights;

  Pass(DType type, int64_t rows, int64_t k, int64_t width) {
    x = bench.random(type, {rows * k, width}, 1), weights = bench.random(wide(type), {rows, k}, 2, 0.5, 0.5);
    dy = bench.random(type, {rows, width}, 3);
    dx = bench.random(type, {rows * k, width}, 4), dweights = bench.empty(wide(type), {rows, k});
    std::vector<int64_t> places;  // slot by slot, so that a row's choices lie apart
    for (int64_t i = 0; i < rows * k; ++i) {
      const bool dropped = rows > 1 && (i % 5 == 2 || i / k == 4);  // of row 4 every choice
      places.push_back(dropped ? -1 : i % k * rows + (i / k * 5 + 3) % rows);
    }
    place = bench.indices(DType::i32, places).split({rows, k});
  }
  CombineExpertsBackward back() const {
    return {.dx = dx, .dweights = dweights, .dy = dy, .x = x, .weights = weights, .place = place};
  }
  void run(int threads) const {
    CaseStream stream({}, threads);
    combine_experts_backward(stream, back());
  }
};

TEST(CombineExperts, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t rows : {1, 7, 66})
      for (const int64_t width : {1, 17, 130, 299, 128, 2056})
        for (const int64_t k : {1, 2, 3}) {
          SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width << ", " << k);
          Pass p(type, rows, k, width);
          const Tensor dx = p.bench.converted(p.dx, DType::f64);
          const Tensor dweights = p.bench.zeros(DType::f64, {rows, k});
          for (int64_t choice = 0; choice < rows * k; ++choice)
            for (int64_t c = 0; c < width; ++c) {
              if (get(p.place, choice) < 0) continue;
              const int64_t i = choice / k * width + c, from = int64_t(get(p.place, choice)) * width + c;
              set(dx, from, get(p.weights, choice) * get(p.dy, i));
              set(dweights, choice, get(dweights, choice) + get(p.dy, i) * get(p.x, from));
            }
          p.run(1);
          EXPECT_LE(relative_gap(p.dx, dx), bound(type));
          EXPECT_LE(relative_gap(p.dweights, dweights), bound(wide(type)));
        }
}

TEST(CombineExperts, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 7, 2, 5);
  CaseStream stream;
  clear(stream, p.dx);  // rows without a choice stay as they are
  p.run(1);
  const auto loss = [&] {
    double sum = 0;
    for (int64_t choice = 0; choice < 14; ++choice)
      for (int64_t c = 0; c < 5 && get(p.place, choice) >= 0; ++c)
        sum += get(p.dy, choice / 2 * 5 + c) * get(p.weights, choice) * get(p.x, int64_t(get(p.place, choice)) * 5 + c);
    return sum;
  };
  EXPECT_LE(gradient_gap(loss, p.x, p.dx), 1e-7);
  EXPECT_LE(gradient_gap(loss, p.weights, p.dweights), 1e-7);
}

TEST(CombineExperts, ThreadsDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass one(type, 66, 2, 299), three(type, 66, 2, 299);
    one.run(1), three.run(3);
    EXPECT_TRUE(same_bits(one.dx, three.dx) && same_bits(one.dweights, three.dweights));
  }
}

TEST(CombineExperts, Bf16IsF32RoundedOnce) {
  Pass p(DType::bf16, 66, 3, 130);
  CaseStream stream;
  expect_rounded_once(p.bench, stream, combine_experts_backward, p.back());
}

TEST(CombineExperts, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 2, 5);
  CaseStream stream;
  const Tensor doubles = p.bench.empty(DType::f64, {7, 2}),
               outside = p.bench.indices(DType::i32, std::vector<int64_t>(14, -2)).split({7, 2});
  const auto with = [&](Tensor x, Tensor dweights, Tensor place) {
    combine_experts_backward(stream,
                             {.dx = x, .dweights = dweights, .dy = p.dy, .x = x, .weights = p.weights, .place = place});
  };
  EXPECT_BROKEN(with(p.x.rows(0, 13), p.dweights, p.place), "k expert rows per row");
  EXPECT_BROKEN(with(p.x, doubles, p.place), "one gradient per weight");
  EXPECT_BROKEN(with(p.x, p.dweights, outside), "every choice has its place");
}

}  // namespace
}  // namespace fulgur

// An expert's first half against plain f64 loops, and bit for bit against the operators that it stands for.
#include "ops/expert_swiglu.h"

#include "ops/case.h"
#include "ops/expert_linear.h"
#include "ops/swiglu.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr size_t kBytes = size_t(32) << 20;

struct Shape {
  std::vector<int64_t> begin;
  int64_t surplus, width, in;
  int64_t rows() const { return begin.back() + surplus; }
};

// Experts without rows, with few and with more than a tile; of the last four a GPU's copy engine takes the operands.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{{0, 1}, 0, 1, 1},
                                         {{0, 0, 7, 7, 24, 90, 90}, 3, 17, 33},
                                         {{0, 0, 290, 290, 291, 420, 470}, 30, 136, 72},
                                         {{0, 520, 600}, 0, 264, 40},
                                         {{0, 3, 3, 44, 46, 70}, 2, 72, 200},
                                         {{0, 0, 5, 6}, 2, 40, 1000}};
  return all;
}

ExpertSwiglu random_call(Bench& bench, DType type, const Shape& s) {
  const int64_t rows = s.rows(), experts = int64_t(s.begin.size()) - 1;
  ExpertSwiglu op{.y = bench.empty(type, {rows, s.width}),
                  .gate = bench.empty(type, {rows, s.width}),
                  .up = bench.empty(type, {rows, s.width}),
                  .x = bench.random(type, {rows, s.in}, 1),
                  .w_gate = {bench.random(type, {experts, s.width, s.in}, 2)},
                  .w_up = {bench.random(type, {experts, s.width, s.in}, 3)},
                  .expert_begin = bench.indices(DType::i32, s.begin)};
  if (s.surplus > 0) std::memset(op.x.at(s.begin.back()).data, 0xff, size_t(s.surplus * s.in * byte_size(type)));
  return op;
}

double product(const ExpertSwiglu& op, const Weight& w, int64_t expert, int64_t row, int64_t column) {
  double sum = 0;
  for (int64_t i = 0; i < op.x.dim(1); ++i)
    sum += get(op.x, row * op.x.dim(1) + i) * get(w.values, (expert * op.y.dim(1) + column) * op.x.dim(1) + i);
  return sum;
}

double bound(DType type) { return type == DType::f64 ? 1e-13 : type == DType::f32 ? 2e-6 : 5e-3; }

TEST(ExpertSwiglu, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s.rows() << " x " << s.width << " x " << s.in);
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      const ExpertSwiglu op = random_call(bench, type, s);
      const Tensor y = bench.zeros(DType::f64, {s.rows(), s.width}),
                   gate = bench.zeros(DType::f64, {s.rows(), s.width}),
                   up = bench.zeros(DType::f64, {s.rows(), s.width});
      for (size_t e = 0; e + 1 < s.begin.size(); ++e)
        for (int64_t row = s.begin[e]; row < s.begin[e + 1]; ++row)
          for (int64_t c = 0; c < s.width; ++c) {
            const int64_t at = row * s.width + c;
            const double g = product(op, op.w_gate, int64_t(e), row, c), u = product(op, op.w_up, int64_t(e), row, c);
            set(gate, at, g), set(up, at, u), set(y, at, g / (1 + std::exp(-g)) * u);
          }
      expert_swiglu(stream, op);
      EXPECT_LE(relative_gap(op.gate, gate), bound(type));
      EXPECT_LE(relative_gap(op.up, up), bound(type));
      EXPECT_LE(relative_gap(op.y, y), bound(type));
    }
}

TEST(ExpertSwiglu, IsTwoProductsAndTheirGate) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      ExpertSwiglu op = random_call(bench, type, s);
      expert_swiglu(stream, op);
      const ExpertSwiglu apart = random_call(bench, type, s);
      expert_linear(stream, {.y = apart.gate, .x = op.x, .w = op.w_gate, .expert_begin = op.expert_begin});
      expert_linear(stream, {.y = apart.up, .x = op.x, .w = op.w_up, .expert_begin = op.expert_begin});
      swiglu(stream, {.y = apart.y, .gate = apart.gate, .up = apart.up});
      EXPECT_TRUE(same_bits(op.y, apart.y) && same_bits(op.gate, apart.gate) && same_bits(op.up, apart.up))
          << name_of(type) << ' ' << s.rows() << " x " << s.width;
      op.kept = false, op.y = bench.empty(type, {s.rows(), s.width});
      expert_swiglu(stream, op);
      EXPECT_TRUE(same_bits(op.y, apart.y)) << name_of(type) << ' ' << s.rows() << " x " << s.width << ", not kept";
    }
}

TEST(ExpertSwiglu, RefusesOtherShapes) {
  Bench bench(kBytes);
  CaseStream stream;
  const ExpertSwiglu good = random_call(bench, DType::f32, shapes()[1]);
  ExpertSwiglu wrong = good;
  wrong.up = bench.empty(DType::f32, {93, 16});
  EXPECT_BROKEN(expert_swiglu(stream, wrong), "y, gate and up have the experts' outputs");
  wrong = good, wrong.w_up = {bench.random(DType::f32, {6, 16, 33}, 2)};
  EXPECT_BROKEN(expert_swiglu(stream, wrong), "both matrices have one shape");
}

}  // namespace
}  // namespace fulgur

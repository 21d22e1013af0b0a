// An expert's first half against plain f64 loops, and bit for bit against the operators that it stands for.
#include "ops/expert_swiglu.h"

#include "ops/case.h"
#include "ops/swiglu.h"
#include "ops/take_rows.h"

namespace fulgur {
namespace {

using namespace cases;

constexpr size_t kBytes = size_t(32) << 20;

struct Shape {
  std::vector<int64_t> begin;
  int64_t surplus, width, in;
  int64_t rows() const { return begin.back() + surplus; }
};

// So many experts that more than a warp looks for them; some without rows.
std::vector<int64_t> many_experts() {
  std::vector<int64_t> begin = {0};
  for (int64_t expert = 0; expert < 70; ++expert) begin.push_back(begin.back() + expert % 4);
  return begin;
}

// Experts without rows, with few and with more than a tile; of the last six a GPU's copy engine takes the operands.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{{0, 1}, 0, 1, 1},
                                         {{0, 0, 7, 7, 24, 90, 90}, 3, 17, 33},
                                         {{0, 0, 290, 290, 291, 420, 470}, 30, 136, 72},
                                         {{0, 520, 600}, 0, 264, 40},
                                         {{0, 3, 3, 44, 46, 70}, 2, 72, 296},
                                         {{0, 1, 1, 12, 13}, 2, 40, 400},
                                         {{0, 0, 5, 6}, 2, 40, 1000},
                                         {many_experts(), 5, 40, 24}};
  return all;
}

// What bench.random draws, into a part of a tensor.
void draw(const Tensor& t, uint64_t seed) {
  for (int64_t i = 0; i < t.count(); ++i)
    set(t, i, double(float(2 * unit_interval(philox(seed, uint64_t(i), 0)[0]) - 1)));
}

// Choices of rows in any order, some several times; the last row, which nobody chooses, and what lies between rows are
// NaN. Of every expert both matrices lie in one, with the gate's rows above those of up.
ExpertSwiglu random_call(Bench& bench, DType type, const Shape& s) {
  const int64_t choices = s.rows(), experts = int64_t(s.begin.size()) - 1, tokens = choices / 2 + 2, gap = 8;
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < s.begin.back(); ++i)
    rows.push_back(int64_t(philox(4, uint64_t(i), 0)[0] % uint64_t(tokens - 1)));
  rows.resize(size_t(choices), -1);
  const Tensor gate_up = bench.empty(type, {experts, 2 * s.width, s.in});
  const Weight w_gate{gate_up.slice(1, 0, s.width)}, w_up{gate_up.slice(1, s.width, 2 * s.width)};
  draw(w_gate.values, 2), draw(w_up.values, 3);
  ExpertSwiglu op{.y = bench.empty(type, {choices, s.width}),
                  .grouped = bench.empty(type, {choices, s.in}),
                  .gate = bench.empty(type, {choices, s.width}),
                  .up = bench.empty(type, {choices, s.width}),
                  .x = bench.random(type, {tokens, s.in + gap}, 1),
                  .rows = bench.indices(DType::i32, rows),
                  .w_gate = w_gate,
                  .w_up = w_up,
                  .expert_begin = bench.indices(DType::i32, s.begin)};
  for (int64_t i = 0; i < op.x.count(); ++i)
    if (i % op.x.dim(1) >= s.in || i / op.x.dim(1) == tokens - 1) set(op.x, i, NAN);
  op.x.shape[1] = s.in;
  return op;
}

double product(const ExpertSwiglu& op, const Weight& w, int64_t expert, int64_t choice, int64_t column) {
  const int64_t in = op.x.dim(1), row = op.rows.elements<int32_t>()[choice];
  double sum = 0;
  for (int64_t i = 0; i < in; ++i)
    sum += get(op.x, row * in + i) * get(w.values, (expert * op.y.dim(1) + column) * in + i);
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

// Of matrices by themselves.
TEST(ExpertSwiglu, IsTakenRowsTwoProductsAndTheirGate) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      ExpertSwiglu op = random_call(bench, type, s);
      expert_swiglu(stream, op);
      ExpertSwiglu apart = random_call(bench, type, s);
      for (Weight* w : {&apart.w_gate, &apart.w_up}) w->values = bench.converted(w->values, type);
      take_rows(stream, {.y = apart.grouped, .x = apart.x, .rows = apart.rows});
      expert_linear(stream,
                    {.y = apart.gate, .x = apart.grouped, .w = apart.w_gate, .expert_begin = apart.expert_begin});
      expert_linear(stream, {.y = apart.up, .x = apart.grouped, .w = apart.w_up, .expert_begin = apart.expert_begin});
      swiglu(stream, {.y = apart.y, .gate = apart.gate, .up = apart.up});
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s.rows() << " x " << s.width << " x " << s.in);
      EXPECT_TRUE(same_bits(op.y, apart.y) && same_bits(op.grouped, apart.grouped));
      EXPECT_TRUE(same_bits(op.gate, apart.gate) && same_bits(op.up, apart.up));
      for (const ExpertSwiglu& weights : {op, apart}) {
        op.w_gate = weights.w_gate, op.w_up = weights.w_up;
        for (Tensor* t : {&op.y, &op.gate, &op.up}) *t = bench.empty(type, {s.rows(), s.width});
        op.kept = false, op.grouped = bench.empty(type, {s.rows(), s.in});
        expert_swiglu(stream, op);
        EXPECT_TRUE(same_bits(op.y, apart.y)) << "not kept";
      }
    }
}

// Among many rows and alone.
TEST(ExpertSwiglu, AChoiceHasTheBitsItHasAmongOthers) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Bench bench(kBytes);
    CaseStream stream({}, 2);
    const ExpertSwiglu all = random_call(bench, type, {{0, 90}, 0, 72, 200});
    ExpertSwiglu few = all;
    few.kept = false;
    few.rows = all.rows.rows(50, 57), few.expert_begin = bench.indices(DType::i32, {0, 7});
    few.y = bench.empty(type, {7, 72}), few.grouped = bench.empty(type, {7, 200});
    few.gate = bench.empty(type, {7, 72}), few.up = bench.empty(type, {7, 72});
    expert_swiglu(stream, all), expert_swiglu(stream, few);
    EXPECT_TRUE(same_bits(few.y, all.y.rows(50, 57))) << name_of(type);
  }
}

// Of a last matrix with as many outputs as the first ones have inputs; dgate and dup are halves of a matrix.
ExpertSwigluBackward random_backward(Bench& bench, DType type, const Shape& s, Store dw_store) {
  const int64_t rows = s.rows(), experts = int64_t(s.begin.size()) - 1;
  const auto of_width = [&](uint64_t seed, double deviation) {
    return bench.random(type, {rows, s.width}, seed, deviation);
  };
  const Tensor both = bench.random(type, {rows, 2 * s.width}, 4);
  ExpertSwigluBackward op{.dgate = both.slice(1, 0, s.width),
                          .dup = both.slice(1, s.width, 2 * s.width),
                          .dw = bench.random(wide(type), {experts, s.in, s.width}, 6),
                          .dy = bench.random(type, {rows, s.in}, 7),
                          .y = of_width(8, 1),
                          .gate = of_width(9, 4),
                          .up = of_width(10, 1),
                          .w = {bench.random(type, {experts, s.in, s.width}, 11)},
                          .expert_begin = bench.indices(DType::i32, s.begin),
                          .dw_store = dw_store};
  for (const Tensor* t : {&op.gate, &op.up})  // as expert_swiglu leaves them
    std::memset(t->at(s.begin.back() - 1).data + s.width * byte_size(type), 0,
                size_t(s.surplus * s.width * byte_size(type)));
  return op;
}

struct Gradients {
  Tensor dgate, dup, dw;  // f64
};
Gradients oracle(Bench& bench, const ExpertSwigluBackward& op, const Shape& s) {
  const int64_t width = s.width, out = s.in;
  const Gradients g{bench.zeros(DType::f64, {s.rows(), width}), bench.zeros(DType::f64, {s.rows(), width}),
                    op.dw_store == Store::add ? bench.converted(op.dw, DType::f64)
                                              : bench.zeros(DType::f64, {op.dw.dim(0), out, width})};
  for (size_t e = 0; e + 1 < s.begin.size(); ++e)
    for (int64_t row = s.begin[e]; row < s.begin[e + 1]; ++row)
      for (int64_t c = 0; c < width; ++c) {
        const int64_t at = row * width + c;
        double dy = 0;
        for (int64_t o = 0; o < out; ++o) {
          const int64_t weight = (int64_t(e) * out + o) * width + c;
          dy += get(op.dy, row * out + o) * get(op.w.values, weight);
          set(g.dw, weight, get(g.dw, weight) + get(op.dy, row * out + o) * get(op.y, at));
        }
        const double x = get(op.gate, at), sigmoid = 1 / (1 + std::exp(-x));
        set(g.dgate, at, dy * get(op.up, at) * sigmoid * (1 + x * (1 - sigmoid)));
        set(g.dup, at, dy * x * sigmoid);
      }
  return g;
}

TEST(ExpertSwiglu, GradientsEqualTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << s.rows() << " x " << s.width << " x " << s.in);
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      const ExpertSwigluBackward op = random_backward(bench, type, s, s.in % 3 ? Store::add : Store::overwrite);
      const Gradients right = oracle(bench, op, s);
      expert_swiglu_backward(stream, op);
      EXPECT_LE(relative_gap(op.dgate, right.dgate), bound(type));
      EXPECT_LE(relative_gap(op.dup, right.dup), bound(type));
      EXPECT_LE(relative_gap(op.dw, right.dw), bound(wide(type)));
    }
}

// Of matrices by themselves, too.
TEST(ExpertSwiglu, GradientsAreTheProductAndTheGate) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const Shape& s : shapes()) {
      Bench bench(kBytes);
      CaseStream stream({}, 2);
      const ExpertSwigluBackward op = random_backward(bench, type, s, Store::add);
      ExpertLinearBackward matrix = op.of_matrix();
      matrix.dx = bench.empty(type, {s.rows(), s.width}), matrix.dw = bench.converted(op.dw, op.dw.dtype);
      const Tensor dgate = bench.empty(type, {s.rows(), s.width}), dup = bench.empty(type, {s.rows(), s.width});
      expert_swiglu_backward(stream, op);
      expert_linear_backward(stream, matrix);
      swiglu_backward(stream, {.dgate = dgate, .dup = dup, .dy = matrix.dx, .gate = op.gate, .up = op.up});
      ExpertSwigluBackward apart = random_backward(bench, type, s, Store::add);
      apart.dgate = bench.empty(type, {s.rows(), s.width}), apart.dup = bench.empty(type, {s.rows(), s.width});
      expert_swiglu_backward(stream, apart);
      for (const ExpertSwigluBackward& made : {op, apart})
        EXPECT_TRUE(same_bits(made.dgate, dgate) && same_bits(made.dup, dup) && same_bits(made.dw, matrix.dw))
            << name_of(type) << ' ' << s.rows() << " x " << s.width;
    }
}

TEST(ExpertSwiglu, RefusesOtherShapes) {
  Bench bench(kBytes);
  CaseStream stream;
  const ExpertSwiglu good = random_call(bench, DType::f32, shapes()[1]);
  ExpertSwiglu wrong = good;
  wrong.rows = bench.indices(DType::i32, {0, 1});
  EXPECT_BROKEN(expert_swiglu(stream, wrong), "one row per choice");
  wrong = good, wrong.grouped = bench.empty(DType::f32, {93, 32});
  EXPECT_BROKEN(expert_swiglu(stream, wrong), "a row of inputs per choice");
  wrong = good, wrong.up = bench.empty(DType::f32, {93, 16});
  EXPECT_BROKEN(expert_swiglu(stream, wrong), "y, gate and up have the experts' outputs");
  wrong = good, wrong.w_up = {bench.random(DType::f32, {6, 16, 33}, 2)};
  EXPECT_BROKEN(expert_swiglu(stream, wrong), "both matrices have one shape");
}

}  // namespace
}  // namespace fulgur

// Lightning attention's gradients: central differences, state and tail included, and the same values across any cuts.
#include "ops/attention_case.h"
#include "ops/lightning_attention.h"

namespace fulgur {
namespace {

using namespace cases;

struct Gradient {
  Tensor dqkv, d_state, d_tail;
};

// One call's rows of one sequence in slot 1 of 2, from position `start` on, with the slot as it was before.
struct Cut {
  Tensor qkv, d_o, decay, state, tail;
  int64_t start;
};

Gradient backward(Bench& bench, const Cut& cut, Tensor d_state, Tensor d_tail) {
  const Layout layout = lay_out(bench, {cut.qkv.dim(0)}, {cut.start});
  const Gradient result{bench.empty(cut.qkv.dtype, {cut.qkv.dim(0), cut.qkv.dim(1), 3, cut.qkv.dim(3)}), d_state,
                        d_tail};
  CaseStream stream({}, 2);
  LightningAttentionBackward op{.dqkv = result.dqkv,
                                .d_o = cut.d_o,
                                .qkv = cut.qkv,
                                .decay = cut.decay,
                                .row_begin = layout.row_begin,
                                .positions = layout.positions,
                                .longest = layout.longest};
  if (cut.state) {
    op.slots = bench.indices(DType::i32, {1});
    op.state = cut.state, op.tail = cut.tail, op.d_state = d_state, op.d_tail = d_tail;
  }
  lightning_attention_backward(stream, op);
  return result;
}

// Runs the cut's rows through copies of its slot and returns o; state and tail are left in `after`.
Tensor forward(Bench& bench, const Cut& cut, Cut* after) {
  const Layout layout = lay_out(bench, {cut.qkv.dim(0)}, {cut.start});
  const Tensor o = bench.empty(cut.qkv.dtype, {cut.qkv.dim(0), cut.qkv.dim(1), cut.qkv.dim(3)});
  *after = cut;
  after->state = bench.converted(cut.state, cut.state.dtype), after->tail = bench.converted(cut.tail, cut.tail.dtype);
  CaseStream stream;
  lightning_attention(stream, {.o = o,
                               .qkv = cut.qkv,
                               .decay = cut.decay,
                               .row_begin = layout.row_begin,
                               .positions = layout.positions,
                               .longest = layout.longest,
                               .slots = bench.indices(DType::i32, {1}),
                               .state = after->state,
                               .tail = after->tail});
  return o;
}

// A call that keeps nothing.
LightningAttentionBackward training(Bench& bench, const Tensor& qkv, const Tensor& d_o, const Layout& layout) {
  return {.dqkv = bench.empty(qkv.dtype, {qkv.dim(0), qkv.dim(1), 3, qkv.dim(3)}),
          .d_o = d_o,
          .qkv = qkv,
          .decay = decays(bench, qkv.dtype, qkv.dim(1)),
          .row_begin = layout.row_begin,
          .positions = layout.positions,
          .longest = layout.longest};
}

TEST(LightningAttentionBackward, MatchesCentralDifferencesOfPackedSequences) {
  Bench bench(size_t(16) << 20);
  const Layout layout = lay_out(bench, {1, 3, 66, 0, 64});
  const Tensor qkv = bench.random(DType::f64, {layout.rows, 2, 3, 3}, 6, 2);
  const Tensor o = bench.empty(DType::f64, {layout.rows, 2, 3}), d_o = bench.random(DType::f64, {layout.rows, 2, 3}, 7);
  const LightningAttentionBackward backward = training(bench, qkv, d_o, layout);
  CaseStream stream({}, 2);
  lightning_attention_backward(stream, backward);
  const LightningAttention op{.o = o,
                              .qkv = qkv,
                              .decay = backward.decay,
                              .row_begin = layout.row_begin,
                              .positions = layout.positions,
                              .longest = layout.longest};
  const auto loss = [&] {
    lightning_attention(stream, op);
    return inner(o, d_o);
  };
  EXPECT_LT(gradient_gap(loss, qkv, backward.dqkv), 1e-8);
}

struct Span {
  int64_t held, rows;
};

class LightningAttentionCut : public testing::TestWithParam<Span> {};

TEST_P(LightningAttentionCut, MatchesCentralDifferencesOfStateAndTail) {
  const auto [held, rows] = GetParam();
  const int64_t heads = 2, width = 3, left = (held + rows) % kGrid;
  Bench bench(size_t(16) << 20);
  const Cut cut{.qkv = bench.random(DType::f64, {rows, heads, 3, width}, 8, 2),
                .d_o = bench.random(DType::f64, {rows, heads, width}, 9),
                .decay = decays(bench, DType::f64, heads),
                .state = bench.random(DType::f64, {2, heads, width, width}, 10),
                .tail = bench.random(DType::f64, {2, heads, 2, kGrid, width}, 11),
                .start = 64 + held};
  const Tensor flows_state = bench.random(DType::f64, {2, heads, width, width}, 12);
  const Tensor flows_tail = bench.random(DType::f64, {2, heads, 2, kGrid, width}, 13);
  const Gradient have =
      backward(bench, cut, bench.converted(flows_state, DType::f64), bench.converted(flows_tail, DType::f64));
  const auto loss = [&] {
    const Arena::Scope scope(bench.arena());
    Cut after;
    const Tensor o = forward(bench, cut, &after);
    const auto counting = [&](const Tensor& tail) { return tail.at(1).slice(2, 0, left); };
    return inner(o, cut.d_o) + inner(after.state.at(1), flows_state.at(1)) +
           inner(counting(after.tail), counting(flows_tail));
  };
  constexpr double kStep = 0.5;  // the loss is linear in each element of state and tail
  EXPECT_LT(gradient_gap(loss, cut.qkv, have.dqkv), 1e-7);
  EXPECT_LT(gradient_gap(loss, cut.state.at(1), have.d_state.at(1), kStep), 1e-10);
  EXPECT_LT(gradient_gap(loss, cut.tail.at(1).slice(2, 0, held), have.d_tail.at(1).slice(2, 0, held), kStep), 1e-10);
  EXPECT_TRUE(same_bits(have.d_tail.at(1).slice(2, held, kGrid), flows_tail.at(1).slice(2, held, kGrid)));
  EXPECT_TRUE(same_bits(have.d_tail.at(0), flows_tail.at(0)) && same_bits(have.d_state.at(0), flows_state.at(0)));
}

INSTANTIATE_TEST_SUITE_P(Spans, LightningAttentionCut,
                         testing::Values(Span{50, 5}, Span{50, 14}, Span{50, 30}, Span{0, 10}, Span{0, 64}, Span{63, 1},
                                         Span{20, 120}, Span{0, 150}),
                         [](const auto& span) {
                           return std::to_string(span.param.held) + "_" + std::to_string(span.param.rows);
                         });

// Gradients of chunk after chunk, the last first, each handing its state's and tail's gradient to the one before.
Tensor chained_gradient(Bench& bench, const Cut& whole, const std::vector<int64_t>& cuts) {
  const Tensor dqkv = bench.empty(whole.qkv.dtype, {whole.qkv.dim(0), whole.qkv.dim(1), 3, whole.qkv.dim(3)});
  std::vector<Cut> pieces;
  Cut next = whole;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    next.qkv = whole.qkv.rows(cuts[i], cuts[i + 1]), next.d_o = whole.d_o.rows(cuts[i], cuts[i + 1]),
    next.start = cuts[i];
    pieces.push_back(next);
    forward(bench, pieces.back(), &next);
  }
  const int64_t heads = whole.qkv.dim(1), width = whole.qkv.dim(3);
  const Tensor d_state = bench.zeros(wide(whole.qkv.dtype), {2, heads, width, width});
  const Tensor d_tail = bench.zeros(wide(whole.qkv.dtype), {2, heads, 2, kGrid, width});
  for (size_t i = pieces.size(); i-- > 0;) {
    const Tensor piece = backward(bench, pieces[i], d_state, d_tail).dqkv, into = dqkv.rows(cuts[i], cuts[i + 1]);
    copy_elements(into, piece);
  }
  return dqkv;
}

class LightningAttentionBackwardTypes : public testing::TestWithParam<DType> {};

void expect_same_across_cuts(DType type, int64_t width) {
  Bench bench(size_t(16) << 20);
  const int64_t heads = 2;
  const Tensor qkv = bench.random(type, {150, heads, 3, width}, 14, 2);
  const Tensor d_o = bench.random(type, {150, heads, width}, 15);
  const LightningAttentionBackward want = training(bench, qkv, d_o, lay_out(bench, {150}));
  CaseStream stream;
  lightning_attention_backward(stream, want);
  const Cut remembering{.qkv = qkv,
                        .d_o = d_o,
                        .decay = want.decay,
                        .state = bench.zeros(wide(type), {2, heads, width, width}),
                        .tail = bench.empty(type, {2, heads, 2, kGrid, width}),
                        .start = 0};
  std::vector<std::vector<int64_t>> ways{{0, 150}, {0, 64, 150}, {0, 128, 150}, {0, 64, 128, 150}};
  if (type != DType::bf16)
    for (const auto& cuts :
         {std::vector<int64_t>{0, 50, 150}, {0, 100, 150}, {0, 50, 64, 100, 128, 150}, {0, 1, 70, 71, 149, 150}})
      ways.push_back(cuts);
  for (const std::vector<int64_t>& cuts : ways)
    EXPECT_EQ(largest_gap(chained_gradient(bench, remembering, cuts), want.dqkv), 0)
        << cuts.size() - 1 << " pieces, " << cuts[1] << ", width " << width;
}
TEST_P(LightningAttentionBackwardTypes, AreTheSameAcrossCuts) {
  expect_same_across_cuts(GetParam(), 8);
  if (GetParam() == DType::bf16) expect_same_across_cuts(GetParam(), 128);
}

void expect_the_same_alone(DType type, int64_t width) {
  Bench bench(size_t(16) << 20);
  const Tensor qkv = bench.random(type, {270, 2, 3, width}, 18, 2), d_o = bench.random(type, {270, 2, width}, 19);
  const auto gradient = [&](int64_t begin, int64_t end, const std::vector<int64_t>& counts, int threads) {
    CaseStream stream({}, threads);
    const LightningAttentionBackward op =
        training(bench, qkv.rows(begin, end), d_o.rows(begin, end), lay_out(bench, counts));
    lightning_attention_backward(stream, op);
    return op.dqkv;
  };
  const Tensor packed = gradient(0, 270, {65, 0, 1, 130, 74}, 2);
  for (int64_t begin = 0; const int64_t count : {65, 1, 130, 74}) {
    const int64_t end = begin + count;
    EXPECT_TRUE(same_bits(packed.rows(begin, end), gradient(begin, end, {count}, 1))) << count << " rows";
    begin = end;
  }
}
TEST_P(LightningAttentionBackwardTypes, DependOnNeitherNeighboursNorThreads) {
  expect_the_same_alone(GetParam(), 24);
  if (GetParam() == DType::bf16) expect_the_same_alone(GetParam(), 128);
}

INSTANTIATE_TEST_SUITE_P(Types, LightningAttentionBackwardTypes, run_types(), name_of_type);

// The largest of the gaps between an operator's gradients of q, k, v, state and tail and the same call's in f64.
double twin_gap(Bench& bench, const LightningAttentionBackward& op, int64_t held = 0) {
  const LightningAttentionBackward exact = in_f64(bench, op);
  CaseStream stream({}, 2);
  lightning_attention_backward(stream, exact), lightning_attention_backward(stream, op);
  double gap = 0;
  for (const int64_t part : {0, 1, 2})
    gap = larger(gap, relative_gap(op.dqkv.slice(2, part, part + 1), exact.dqkv.slice(2, part, part + 1)));
  if (!op.d_state) return gap;
  gap = larger(gap, relative_gap(op.d_state.at(1), exact.d_state.at(1)));
  return larger(gap, relative_gap(op.d_tail.at(1).slice(2, 0, held), exact.d_tail.at(1).slice(2, 0, held)));
}

class LightningAttentionBackwardTwin : public testing::TestWithParam<DType> {};

TEST_P(LightningAttentionBackwardTwin, MatchesF64) {
  const DType type = GetParam();
  Bench bench(size_t(48) << 20);
  const auto gap = [&](const std::vector<int64_t>& counts, int64_t width) {
    const Arena::Scope scope(bench.arena());
    const Layout layout = lay_out(bench, counts);
    return twin_gap(bench, training(bench, bench.random(type, {layout.rows, 2, 3, width}, 16, 2),
                                    bench.random(type, {layout.rows, 2, width}, 17), layout));
  };
  for (const int64_t width : widths_of(type)) {
    EXPECT_LT(gap(std::vector<int64_t>(64, 1), width), bound_of(type)) << "rows of width " << width;
    for (const int64_t count : {63, 64, 65, 255, 257, 1000})
      EXPECT_LT(gap({count}, width), bound_of(type)) << count << " rows of width " << width;
  }
  EXPECT_LT(gap({1, 1, 64, 0, 2, 63, 65, 130, 1}, 16), bound_of(type));
}

void expect_state_and_tail(DType type, int64_t width) {
  const int64_t heads = 2;
  Bench bench(size_t(16) << 20);
  for (const Span span : {Span{50, 5}, {50, 14}, {50, 30}, {0, 10}, {0, 64}, {63, 1}, {20, 120}, {0, 150}}) {
    const Arena::Scope scope(bench.arena());
    LightningAttentionBackward op =
        training(bench, bench.random(type, {span.rows, heads, 3, width}, 8, 2),
                 bench.random(type, {span.rows, heads, width}, 9), lay_out(bench, {span.rows}, {64 + span.held}));
    op.slots = bench.indices(DType::i32, {1});
    op.state = bench.random(wide(type), {2, heads, width, width}, 10, 20);
    op.tail = bench.random(type, {2, heads, 2, kGrid, width}, 11);
    op.d_state = bench.random(wide(type), {2, heads, width, width}, 12);
    op.d_tail = bench.random(wide(type), {2, heads, 2, kGrid, width}, 13);
    EXPECT_LT(twin_gap(bench, op, span.held), bound_of(type))
        << span.rows << " rows, " << span.held << " held, width " << width;
  }
}
TEST_P(LightningAttentionBackwardTwin, MatchesF64OfStateAndTail) {
  expect_state_and_tail(GetParam(), 32);
  if (GetParam() == DType::bf16) expect_state_and_tail(GetParam(), 128);
}

// A segment of 4,096 rows and the next, with a tail and an open block; beside a short sequence the same bits.
TEST(LightningAttentionBackward, MatchesF64OfDividedSequences) {
  const int64_t held = 20, rows = 4096 + 30, width = 128;
  Bench bench(size_t(128) << 20);
  const auto gradient = [&](const std::vector<int64_t>& counts, const std::vector<int64_t>& starts) {
    const Layout layout = lay_out(bench, counts, starts);
    LightningAttentionBackward op = training(bench, bench.random(DType::bf16, {layout.rows, 1, 3, width}, 8, 2),
                                             bench.random(DType::bf16, {layout.rows, 1, width}, 9), layout);
    for (int64_t i = 0; i < op.decay.count(); ++i) set(op.decay, i, 0.001);  // much passes from segment to segment
    op.slots = counts.size() == 1 ? bench.indices(DType::i32, {1}) : bench.indices(DType::i32, {1, 0});
    op.state = bench.random(DType::f32, {2, 1, width, width}, 10, 20);
    op.tail = bench.random(DType::bf16, {2, 1, 2, kGrid, width}, 11);
    op.d_state = bench.random(DType::f32, {2, 1, width, width}, 12, 100);
    op.d_tail = bench.random(DType::f32, {2, 1, 2, kGrid, width}, 13);
    op.in_order = false;
    return op;
  };
  const LightningAttentionBackward alone = gradient({rows}, {64 + held});
  EXPECT_LT(twin_gap(bench, alone, held), bound_of(DType::bf16));
  const LightningAttentionBackward packed = gradient({rows, 5}, {64 + held, 0});
  CaseStream stream({}, 2);
  lightning_attention_backward(stream, packed);
  EXPECT_TRUE(same_bits(packed.dqkv.rows(0, rows), alone.dqkv));
  EXPECT_TRUE(same_bits(packed.d_state.at(1), alone.d_state.at(1)));
}

// Where forward cut a sequence, what it found there takes the place of a sum.
TEST(LightningAttentionBackward, StartsFromWhatForwardFound) {
  const int64_t rows = 2 * 4096 + 70, width = 128;
  Bench bench(size_t(192) << 20);
  const Layout layout = lay_out(bench, {100, 4200, rows}, {0, 0, 0});
  LightningAttentionBackward op = training(bench, bench.random(DType::bf16, {layout.rows, 1, 3, width}, 8, 2),
                                           bench.random(DType::bf16, {layout.rows, 1, width}, 9), layout);
  for (int64_t i = 0; i < op.decay.count(); ++i) set(op.decay, i, 0.001);  // much passes from segment to segment
  op.in_order = false;
  CaseStream stream({}, 2);
  lightning_attention_backward(stream, op);
  const Tensor summed = bench.empty(DType::bf16, {layout.rows, 1, 3, width});
  copy_elements(summed, op.dqkv);
  op.starts = bench.zeros(DType::f32, {LightningAttention::start_count(layout.rows), 1, width, width});
  lightning_attention(stream, {.o = bench.empty(DType::bf16, {layout.rows, 1, width}),
                               .qkv = op.qkv,
                               .decay = op.decay,
                               .row_begin = op.row_begin,
                               .positions = op.positions,
                               .longest = op.longest,
                               .in_order = false,
                               .starts = op.starts});
  lightning_attention_backward(stream, op);
  EXPECT_LT(relative_gap(op.dqkv, summed), bound_of(DType::bf16));
  EXPECT_TRUE(same_bits(op.dqkv.rows(0, 100), summed.rows(0, 100)));
}

INSTANTIATE_TEST_SUITE_P(Types, LightningAttentionBackwardTwin, testing::Values(DType::f32, DType::bf16), name_of_type);

TEST(LightningAttentionBackwardDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(1) << 20);
  const Layout layout = lay_out(bench, {4});
  const Tensor qkv = bench.zeros(DType::f32, {4, 2, 3, 8});
  CaseStream stream;
  LightningAttentionBackward gradient{.dqkv = qkv,
                                      .d_o = bench.zeros(DType::f32, {4, 2, 7}),
                                      .qkv = qkv,
                                      .decay = bench.zeros(DType::f32, {2}),
                                      .row_begin = layout.row_begin,
                                      .positions = layout.positions,
                                      .longest = 4};
  EXPECT_BROKEN(lightning_attention_backward(stream, gradient), "qkv matches d_o");
  gradient.d_o = bench.zeros(DType::f32, {4, 2, 8}), gradient.dqkv = bench.zeros(DType::f64, {4, 2, 3, 8});
  EXPECT_BROKEN(lightning_attention_backward(stream, gradient), "the gradient matches qkv");
}

}  // namespace
}  // namespace fulgur

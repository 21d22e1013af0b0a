// Lightning attention: against the plain recurrence, and the same bytes in any chunks and company.
#include "ops/lightning_attention_case.h"

#include <deque>

namespace fulgur {
namespace {

using namespace cases;

// Raw value whose SiLU is y > -0.27, on the rising branch.
double raw_of(double y) {
  double x = y < 0 ? -0.3 : y;
  for (int i = 0; i < 100; ++i) {
    const double sigmoid = 1 / (1 + std::exp(-x));
    x -= (x * sigmoid - y) / (sigmoid * (1 + x * (1 - sigmoid)));
  }
  return x;
}

struct Shape {
  std::vector<int64_t> counts;
  int64_t heads, width;
};

// The k and v rows of one sequence since the last multiple of 64 rows, [heads, 2, rows, width].
Tensor rows_since(Bench& bench, const Tensor& qkv) {
  const int64_t rows = qkv.dim(0) % kGrid, first = qkv.dim(0) - rows, heads = qkv.dim(1), width = qkv.dim(3);
  const Tensor result = bench.empty(DType::f64, {heads, 2, rows, width});
  for (int64_t i = 0; i < result.count(); ++i) {
    const int64_t d = i % width, row = first + i / width % rows, part = i / width / rows % 2, h = i / width / rows / 2;
    set(result, i, silu(get(qkv, ((row * heads + h) * 3 + 1 + part) * width + d)));
  }
  return result;
}

// Sums of squares of each head and row, [heads, rows].
Tensor squares_of(Bench& bench, const Tensor& o) {
  const Tensor result = bench.empty(DType::f64, {o.dim(1), o.dim(0)});
  for (int64_t i = 0; i < result.count(); ++i) {
    const int64_t h = i / o.dim(0);
    const Tensor one = o.at(i % o.dim(0)).rows(h, h + 1);
    set(result, i, inner(one, one));
  }
  return result;
}

// The largest of the gaps between what packed sequences give and leave behind and the recurrence, and where o is not
// rounded between squares and o^2.
double twin_gap(Bench& bench, DType type, const Shape& shape) {
  const Arena::Scope call(bench.arena());
  const Layout layout = lay_out(bench, shape.counts);
  const int64_t sequences = int64_t(shape.counts.size()), heads = shape.heads, width = shape.width;
  const Tensor qkv = bench.random(type, {layout.rows, heads, 3, width}, 1, 2), decay = decays(bench, type, heads);
  const Tensor o = bench.empty(type, {layout.rows, heads, width});
  const Tensor squares = bench.empty(wide(type), {heads, layout.rows});
  const Tensor state = bench.zeros(wide(type), {sequences, heads, width, width});
  const Tensor tail = bench.empty(type, {sequences, heads, 2, kGrid, width});
  std::vector<int64_t> slots;
  for (int64_t s = 0; s < sequences; ++s) slots.push_back(s);
  CaseStream stream({}, 2);
  lightning_attention(stream, {.o = o,
                               .qkv = qkv,
                               .decay = decay,
                               .row_begin = layout.row_begin,
                               .positions = layout.positions,
                               .longest = layout.longest,
                               .slots = bench.indices(DType::i32, slots),
                               .state = state,
                               .tail = tail,
                               .squares = squares});
  Gaps of_o, of_squares, of_state, of_tail;
  for (int64_t s = 0, begin = 0; s < sequences; begin += shape.counts[size_t(s++)]) {
    const Arena::Scope scope(bench.arena());
    const int64_t end = begin + shape.counts[size_t(s)];
    const Tensor rows = qkv.rows(begin, end), since = rows_since(bench, rows);
    const Recurrence want = recurrence(bench, rows, decay);
    of_o.add(o.rows(begin, end), want.o);
    of_squares.add(squares.slice(1, begin, end), squares_of(bench, want.o));
    of_state.add(state.at(s), want.grid_state);
    of_tail.add(tail.at(s).slice(2, 0, since.dim(2)), since);
  }
  double gap = larger(larger(of_o.of(type), of_squares.of(type)), larger(of_state.of(type), of_tail.of(type)));
  const Tensor of_rows = squares_of(bench, o);
  for (int64_t i = 0; type != DType::bf16 && i < of_rows.count(); ++i)
    gap = larger(gap, std::abs(get(squares, i) - get(of_rows, i)) / get(of_rows, i));
  return gap;
}

TEST(LightningAttention, RecurrenceGivesTheMicroVector) {  // spec/model.md 2.1, scaled into SiLU's range
  const double q[] = {1, 2, -1, .5, 1}, k[] = {1, -1, 2, 1, .5}, v[] = {2, 1, -1, 3, 1};
  const double state[] = {2, 0.213061319, -1.870771777, 1.86531956, 1.631373503};
  const double o[] = {2, 0.426122639, 1.870771777, 0.93265978, 1.631373503};
  Bench bench(size_t(16) << 20);
  const Layout layout = lay_out(bench, {5});
  const Tensor qkv = bench.zeros(DType::f64, {5, 1, 3, 1}), decay = bench.zeros(DType::f64, {1});
  const Tensor have = bench.empty(DType::f64, {5, 1, 1});
  set(decay, 0, 0.5);
  for (int64_t t = 0; t < 5; ++t) {
    set(qkv, 3 * t, raw_of(0.2 * q[t])), set(qkv, 3 * t + 1, raw_of(0.2 * k[t])),
        set(qkv, 3 * t + 2, raw_of(0.2 * v[t]));
  }
  CaseStream stream;
  lightning_attention(stream, {.o = have,
                               .qkv = qkv,
                               .decay = decay,
                               .row_begin = layout.row_begin,
                               .positions = layout.positions,
                               .longest = 5});
  const Tensor plain = recurrence(bench, qkv, decay).o;
  for (int64_t t = 0; t < 5; ++t) {
    EXPECT_NEAR(get(plain, t), 0.008 * o[t], 1e-11);
    EXPECT_NEAR(get(have, t), 0.008 * o[t], 1e-11);
    EXPECT_NEAR(get(have, t), 0.2 * q[t] * 0.04 * state[t], 1e-11);
  }
}

class LightningAttentionTwin : public testing::TestWithParam<DType> {};

TEST_P(LightningAttentionTwin, MatchesTheRecurrence) {
  const DType type = GetParam();
  Bench bench(size_t(64) << 20);
  for (const int64_t width : widths_of(type)) {
    EXPECT_LT(twin_gap(bench, type, {std::vector<int64_t>(64, 1), 3, width}), bound_of(type))
        << "rows of width " << width;
    for (const int64_t count : {63, 64, 65, 255, 257, 1000})
      EXPECT_LT(twin_gap(bench, type, {{count}, 3, width}), bound_of(type)) << count << " rows of width " << width;
  }
  EXPECT_LT(twin_gap(bench, type, {{1, 1, 64, 0, 2, 63, 65, 130, 1}, 2, 16}), bound_of(type));
  EXPECT_LT(twin_gap(bench, type, {{130}, 1, 128}), bound_of(type));
  EXPECT_LT(twin_gap(bench, type, {{4096}, 2, 32}), bound_of(type));
}

INSTANTIATE_TEST_SUITE_P(Types, LightningAttentionTwin, run_types(), name_of_type);

class LightningAttentionChunks : public testing::TestWithParam<DType> {};

TEST_P(LightningAttentionChunks, GiveTheSameBytes) {
  constexpr int64_t kHeads = 2, kWidth = 24;
  Bench bench(size_t(16) << 20);
  const int64_t lengths[] = {257, 70, 129};
  std::vector<Tensor> data;
  for (const int64_t length : lengths)
    data.push_back(bench.random(GetParam(), {length, kHeads, 3, kWidth}, uint64_t(length), 2));
  std::deque<Served> whole;
  for (const Tensor& qkv : data) {
    whole.emplace_back(bench, GetParam(), kHeads, kWidth, 1);
    whole.back().add(qkv, qkv.dim(0));
    whole.back().run();
  }
  for (const int64_t chunk : {1, 17, 63, 64, 65, 255, 257}) {
    const std::string name = "chunk " + std::to_string(chunk);
    const Arena::Scope scope(bench.arena());
    Served alone(bench, GetParam(), kHeads, kWidth, 2);
    alone.add(data[0], chunk), alone.run();
    expect_same_sequence(alone, 0, whole[0], (name + " alone").c_str());
    Served company(bench, GetParam(), kHeads, kWidth, chunk % 2 ? 2 : 1);
    company.add(data[1], 3), company.add(data[0], chunk), company.add(data[2], 40), company.run();
    expect_same_sequence(company, 0, whole[1], (name + ": neighbour before").c_str());
    expect_same_sequence(company, 1, whole[0], (name + " in company").c_str());
    expect_same_sequence(company, 2, whole[2], (name + ": neighbour behind").c_str());
  }
}

// Of the head size that has a kernel of its own on some GPUs.
TEST_P(LightningAttentionChunks, GiveTheSameBytesInWideHeads) {
  Bench bench(size_t(16) << 20);
  const Tensor qkv = bench.random(GetParam(), {150, 1, 3, 128}, 5, 2);
  Served whole(bench, GetParam(), 1, 128, 1);
  whole.add(qkv, 150), whole.run();
  for (const int64_t chunk : {17, 64, 65}) {
    const Arena::Scope scope(bench.arena());
    Served chunks(bench, GetParam(), 1, 128, 2);
    chunks.add(qkv, chunk), chunks.run();
    expect_same_sequence(chunks, 0, whole, ("chunk " + std::to_string(chunk)).c_str());
  }
}

// Decode, which has a kernel of its own on some GPUs: every place in a block, the block's end, a neighbour that ends.
TEST_P(LightningAttentionChunks, OfOneRowGiveTheSameBytesInWideHeads) {
  Bench bench(size_t(16) << 20);
  const Tensor longer = bench.random(GetParam(), {135, 2, 3, 128}, 8, 2), shorter = longer.rows(30, 99);
  for (const int64_t chunk : {1, 29}) {  // of the first 58 rows; then one by one
    const Arena::Scope scope(bench.arena());
    Served rows(bench, GetParam(), 2, 128, 2), whole(bench, GetParam(), 2, 128, 1), other(bench, GetParam(), 2, 128, 1);
    rows.add(shorter, chunk), rows.add(longer, chunk);
    rows.run(58), rows.sequences[0].chunk = rows.sequences[1].chunk = 1, rows.run();
    whole.add(longer, 135), whole.run(), other.add(shorter, 69), other.run();
    expect_same_sequence(rows, 0, other, "the shorter");
    expect_same_sequence(rows, 1, whole, "the longer");
  }
}

TEST_P(LightningAttentionChunks, GiveTheSameZeros) {  // of products too small for f32, which sums may keep as -0
  Bench bench(size_t(16) << 20);
  const Tensor qkv = bench.random(GetParam(), {70, 2, 3, 24}, 20, 1e-16);
  Served whole(bench, GetParam(), 2, 24, 1), chunks(bench, GetParam(), 2, 24, 1);
  whole.add(qkv, 70), whole.run(), chunks.add(qkv, 1), chunks.run();
  expect_same_sequence(chunks, 0, whole, "chunk 1");
}

TEST_P(LightningAttentionChunks, EqualTrainingWhichKeepsNothing) {
  Bench bench(size_t(16) << 20);
  const std::vector<int64_t> counts{1, 200, 64, 2, 130};
  const Layout layout = lay_out(bench, counts);
  const Tensor qkv = bench.random(GetParam(), {layout.rows, 2, 3, 16}, 3, 2);
  const Tensor o = bench.empty(GetParam(), {layout.rows, 2, 16});
  CaseStream stream;
  lightning_attention(stream, {.o = o,
                               .qkv = qkv,
                               .decay = decays(bench, GetParam(), 2),
                               .row_begin = layout.row_begin,
                               .positions = layout.positions,
                               .longest = layout.longest});
  for (int64_t begin = 0; const int64_t count : counts) {
    const int64_t end = begin + count;
    Served served(bench, GetParam(), 2, 16, 1);
    served.add(qkv.rows(begin, end), 9), served.run();
    EXPECT_TRUE(same_bits(o.rows(begin, end), served.sequences[0].o)) << count << " rows";
    begin = end;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LightningAttentionChunks, run_types(), name_of_type);

// Of few heads, each call longer than what is cut: at 1,024 and its multiples. Decay is slow enough that a
// segment feels all before it.
TEST(LightningAttention, MatchesTheRecurrenceOutOfOrder) {
  Bench bench(size_t(256) << 20);
  const Tensor qkv = bench.random(DType::bf16, {12400, 1, 3, 128}, 8, 2), brief = qkv.rows(0, 70);
  Served cut(bench, DType::bf16, 1, 128, 1), whole(bench, DType::bf16, 1, 128, 1);
  set(cut.decay, 0, 2e-4), set(whole.decay, 0, 2e-4);
  cut.in_order = false;
  cut.add(brief, 40), cut.add(qkv, 8300), cut.run(), whole.add(brief, 70), whole.run();
  expect_same_sequence(cut, 0, whole, "a short one beside it");
  const Served::Sequence& s = cut.sequences[1];
  const Recurrence want = recurrence(bench, qkv, cut.decay);
  EXPECT_LT(relative_gap(s.o, want.o), bound_of(DType::bf16));
  EXPECT_LT(relative_gap(s.squares, squares_of(bench, want.o)), bound_of(DType::bf16));
  EXPECT_LT(relative_gap(cut.state.at(s.slot), want.grid_state), bound_of(DType::bf16));
  EXPECT_LT(relative_gap(cut.counting_tail(s), rows_since(bench, qkv)), bound_of(DType::bf16));
}

TEST(LightningAttention, SumsSquaresBeforeItRounds) {
  Bench bench(size_t(16) << 20);
  Served served(bench, DType::bf16, 2, 32, 1);
  served.add(bench.random(DType::bf16, {70, 2, 3, 32}, 6, 2), 70), served.run();
  const Served::Sequence& s = served.sequences[0];
  const double gap = relative_gap(s.squares, squares_of(bench, s.o));
  EXPECT_GT(gap, 1e-5);  // squares of the rounded o would give 1e-7
  EXPECT_LT(gap, 5e-3);
}

TEST(LightningAttention, LeavesTheGridStateAndTheRowsSince) {
  Bench bench(size_t(16) << 20);
  const Tensor qkv = bench.random(DType::f64, {150, 2, 3, 8}, 4, 2);
  Served served(bench, DType::f64, 2, 8, 1);
  served.add(qkv, 33), served.run();
  const int64_t slot = served.sequences[0].slot;
  EXPECT_LT(relative_gap(served.state.at(slot), recurrence(bench, qkv, decays(bench, DType::f64, 2)).grid_state),
            1e-12);
  const auto tail = served.tail.view<double, 5>();
  const auto rows = qkv.view<double, 4>();
  for (int64_t i = 0; i < 150 % kGrid; ++i) {
    for (int64_t part : {0, 1}) {
      EXPECT_NEAR(tail(slot, 1, part, i, 5), silu(rows(128 + i, 1, 1 + part, 5)), 1e-14);
    }
  }
}

TEST(LightningAttention, LeavesTheSlotOfAnEmptySequenceAlone) {
  Bench bench(size_t(16) << 20);
  Served served(bench, DType::f32, 1, 8, 1);
  served.add(bench.empty(DType::f32, {0, 1, 3, 8}), 4), served.add(bench.random(DType::f32, {70, 1, 3, 8}, 5), 70);
  const int64_t idle = served.sequences[0].slot;
  const Tensor state = bench.converted(served.state.at(idle), DType::f32);
  served.run();
  EXPECT_TRUE(same_bits(served.state.at(idle), state));
  EXPECT_TRUE(std::isnan(get(served.tail.at(idle), 0)));
}

TEST(LightningAttentionDeathTest, RefusesWrongOperands) {
  Bench bench(size_t(16) << 20);
  const Layout layout = lay_out(bench, {4});
  const Tensor qkv = bench.zeros(DType::f32, {4, 2, 3, 8}), o = bench.zeros(DType::f32, {4, 2, 8});
  const Tensor decay = bench.zeros(DType::f32, {2});
  LightningAttention op{.o = o,
                        .qkv = bench.zeros(DType::f32, {4, 2, 2, 8}),
                        .decay = decay,
                        .row_begin = layout.row_begin,
                        .positions = layout.positions,
                        .longest = 4};
  CaseStream stream;
  EXPECT_BROKEN(lightning_attention(stream, op), "qkv matches o");
  op.qkv = qkv, op.decay = bench.zeros(DType::f64, {2});
  EXPECT_BROKEN(lightning_attention(stream, op), "one decay per head");
  op.decay = decay, op.slots = layout.row_begin.rows(0, 1);
  EXPECT_BROKEN(lightning_attention(stream, op), "given together");
}

}  // namespace
}  // namespace fulgur

// embedding: rows come back exactly, and gradients are added in row order.
#include "ops/embedding.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

std::vector<int64_t> tokens_for(int64_t rows, int64_t vocab) {  // repeats itself, and skips token 1
  std::vector<int64_t> tokens;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t token = int64_t(philox(5, uint64_t(row), 0)[0] % uint64_t(vocab));
    tokens.push_back(token == 1 ? 0 : token);
  }
  return tokens;
}

constexpr int64_t kVocab = 11;

struct Pass {
  Bench bench{size_t(1) << 23};
  Tensor table, tokens, dy, y, dtable;

  Pass(DType type, int64_t rows, int64_t width) {
    table = bench.random(type, {kVocab, width}, 1), dy = bench.random(type, {rows, width}, 2);
    tokens = bench.indices(DType::i32, tokens_for(rows, kVocab));
    y = bench.empty(type, {rows, width}), dtable = bench.random(wide(type), {kVocab, width}, 3);
  }
  void backward(Stream& stream, int64_t begin, int64_t end) const {
    embedding_backward(stream, {.dtable = dtable, .dy = dy.rows(begin, end), .tokens = tokens.rows(begin, end)});
  }
  void run(int threads) const {
    CaseStream stream({}, threads);
    embedding(stream, {.y = y, .tokens = tokens, .table = {table}});
    backward(stream, 0, tokens.dim(0));
  }
};

TEST(Embedding, EqualsTheOracle) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16})
    for (const int64_t rows : {1, 7, 65, 900})
      for (const int64_t width : {1, 17, 130, 299, 128, 2056}) {
        if (rows == 900 && width > 130) continue;  // enough for a token with pieces
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << width);
        Pass p(type, rows, width);
        const Tensor y = p.bench.empty(DType::f64, {rows, width}), dtable = p.bench.converted(p.dtable, DType::f64);
        for (int64_t i = 0; i < rows * width; ++i) {
          const int64_t from = int64_t(get(p.tokens, i / width)) * width + i % width;
          set(y, i, get(p.table, from));
          set(dtable, from, get(dtable, from) + get(p.dy, i));
        }
        p.run(1);
        EXPECT_EQ(largest_gap(p.y, y), 0);
        EXPECT_LE(relative_gap(p.dtable, dtable), type == DType::f64 ? 1e-15 : 1e-6);
      }
}

TEST(Embedding, GradientEqualsCentralDifferences) {
  const Pass p(DType::f64, 7, 5);
  std::memset(p.dtable.data, 0, size_t(p.dtable.bytes()));
  p.run(1);
  CaseStream stream;
  const auto loss = [&] {
    embedding(stream, {.y = p.y, .tokens = p.tokens, .table = {p.table}});
    return inner(p.y, p.dy);
  };
  EXPECT_LE(gradient_gap(loss, p.table, p.dtable), 1e-7);
}

TEST(Embedding, ThreadsDoNotChangeBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Pass one(type, 900, 131), three(type, 900, 131);
    one.run(1), three.run(3);
    EXPECT_TRUE(same_bits(one.y, three.y) && same_bits(one.dtable, three.dtable));
  }
}

TEST(Embedding, Bf16AddsInF32) {
  Pass p(DType::bf16, 65, 130);
  CaseStream stream;
  expect_rounded_once(p.bench, stream, embedding_backward,
                      EmbeddingBackward{.dtable = p.dtable, .dy = p.dy, .tokens = p.tokens});
}

TEST(Embedding, HalvesAccumulateToTheWhole) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    const Pass whole(type, 65, 130), halves(type, 65, 130);
    CaseStream stream({}, 2);
    whole.backward(stream, 0, 65);
    halves.backward(stream, 0, 30), halves.backward(stream, 30, 65);
    EXPECT_TRUE(same_bits(whole.dtable, halves.dtable));
  }
}

TEST(Embedding, RefusesOtherShapesAndTypes) {
  Pass p(DType::f32, 7, 17);
  CaseStream stream;
  const Tensor wide = p.bench.empty(DType::i64, {7}), outside = p.bench.indices(DType::i32, {0, 1, 2, 3, 4, 5, kVocab});
  EXPECT_BROKEN(embedding(stream, {.y = p.y.rows(0, 6), .tokens = p.tokens, .table = {p.table}}),
                "one row of the table");
  EXPECT_BROKEN(embedding(stream, {.y = p.y, .tokens = wide, .table = {p.table}}), "tokens are i32");
  EXPECT_BROKEN(embedding(stream, {.y = p.y, .tokens = outside, .table = {p.table}}), "every token is in the table");
  EXPECT_BROKEN(embedding_backward(stream, {.dtable = p.dtable, .dy = p.dy, .tokens = outside}),
                "token is in the table");
}

}  // namespace
}  // namespace fulgur

// token_log_probs against an f64 oracle, also far from zero, and over threads.
#include "ops/token_log_probs.h"

#include "ops/case.h"

namespace fulgur {
namespace {

using namespace cases;

struct Pass {
  Bench bench{size_t(1) << 22};
  Tensor logits, tokens, log_probs;

  Pass(DType type, int64_t rows, int64_t vocab) {
    logits = bench.random(type, {rows, vocab}, 1, 5, 60), log_probs = bench.empty(type, {rows});
    std::vector<int64_t> ids;
    for (int64_t row = 0; row < rows; ++row) ids.push_back(int64_t(philox(3, uint64_t(row), 0)[0] % uint64_t(vocab)));
    tokens = bench.indices(DType::i32, ids);
  }
  TokenLogProbs operands() const { return {.log_probs = log_probs, .logits = logits, .tokens = tokens}; }
};

TEST(TokenLogProbs, EqualTheOracle) {
  for (const DType type : {DType::f64, DType::f32})
    for (const int64_t rows : {1, 7, 65})
      for (const int64_t vocab : {1, 17, 1000, 3001}) {
        SCOPED_TRACE(::testing::Message() << name_of(type) << ' ' << rows << " x " << vocab);
        Pass p(type, rows, vocab);
        const Tensor want = p.bench.empty(DType::f64, {rows});
        for (int64_t row = 0; row < rows; ++row) {
          double greatest = -INFINITY, sum = 0;
          for (int64_t i = row * vocab; i < (row + 1) * vocab; ++i) greatest = std::max(greatest, get(p.logits, i));
          for (int64_t i = row * vocab; i < (row + 1) * vocab; ++i) sum += std::exp(get(p.logits, i) - greatest);
          set(want, row, get(p.logits, row * vocab + int64_t(get(p.tokens, row))) - greatest - std::log(sum));
        }
        CaseStream stream;
        token_log_probs(stream, p.operands());
        for (int64_t row = 0; row < rows; ++row) {
          const double bound = (type == DType::f64 ? 1e-12 : 1e-6) * std::max(1.0, std::abs(get(want, row)));
          EXPECT_NEAR(get(p.log_probs, row), get(want, row), bound) << row;
        }
      }
}

TEST(TokenLogProbs, ThreadsDoNotChangeBits) {
  const Pass one(DType::f32, 65, 300), three(DType::f32, 65, 300);
  CaseStream single, many({}, 3);
  token_log_probs(single, one.operands());
  token_log_probs(many, three.operands());
  EXPECT_TRUE(same_bits(one.log_probs, three.log_probs));
}

TEST(TokenLogProbsDeathTest, RefuseWrongOperands) {
  Pass p(DType::f32, 2, 5);
  CaseStream stream;
  TokenLogProbs op = p.operands();
  op.tokens = p.bench.indices(DType::i32, {0, 5});
  EXPECT_BROKEN(token_log_probs(stream, op), "every token is in the vocabulary");
  op.tokens = p.bench.indices(DType::i32, {0});
  EXPECT_BROKEN(token_log_probs(stream, op), "one token and one logarithm per row");
  op = p.operands(), op.logits = p.bench.zeros(DType::bf16, {2, 5});
  EXPECT_BROKEN(token_log_probs(stream, op), "logits are wide");
}

}  // namespace
}  // namespace fulgur

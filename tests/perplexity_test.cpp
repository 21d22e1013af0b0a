// Perplexity: a document's probabilities have the same bits in chunks as whole, whatever else is read and whatever
// pages there are; sums by kind and by position.
#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "generate/engine.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

using Rows = std::vector<float>;

std::vector<EvalDocument> documents_of(const std::vector<int64_t>& lengths) {
  std::mt19937 random(3);
  std::vector<EvalDocument> documents;
  for (const int64_t length : lengths) {
    EvalDocument& document = documents.emplace_back();
    for (int64_t i = 0; i < length; ++i) document.tokens.push_back(int32_t(random() % 97));
    document.bytes = 3 * length;
  }
  return documents;
}

struct Manner {
  int64_t chunk, rows, parallel, tokens;  // tokens: of the engine's pages
};

// The probabilities of each document, in the order in which they came.
std::vector<Rows> read(const TinyModel& model, const std::vector<EvalDocument>& documents, const Manner& manner) {
  Engine engine(model.config, model.weights,
                {.sequences = manner.parallel,
                 .tokens = manner.tokens,
                 .traces = true,
                 .limits = {.rows = manner.rows, .chunk = manner.chunk}});
  Scheduler scheduler(engine);
  std::vector<Rows> rows;
  size_t next = 0;
  int64_t seen = 0;
  foresee(
      scheduler, [&] { return next < documents.size() ? std::optional(documents[next++]) : std::nullopt; },
      manner.parallel,
      [&](const EvalDocument& document, std::span<const float> log_probs) {
        EXPECT_EQ(document.tokens, documents.at(rows.size()).tokens) << "out of order";
        rows.emplace_back(log_probs.begin(), log_probs.end());
      },
      [&](int64_t read) {
        EXPECT_GE(read, seen);
        seen = read;
      });
  int64_t all = 0;
  for (const EvalDocument& document : documents) all += int64_t(document.tokens.size());
  EXPECT_EQ(seen, all);
  EXPECT_EQ(scheduler.times_put_aside(), 0) << "more was begun than the pages hold";
  return rows;
}

TEST(Perplexity, in_chunks_as_whole) {
  const TinyModel model(tiny_config(), DType::f32, 1);
  const std::vector<EvalDocument> documents =
      documents_of({900, 1, 800, 2, 65, 64, 3, 200, 2, 2, 2, 2, 2, 2, 2, 2, 2, 300, 1});
  const std::vector<Rows> whole = read(model, documents, {1024, 1024, 1, 1024});
  ASSERT_EQ(whole.size(), documents.size());
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(whole[i].size(), documents[i].tokens.size() - 1);
  for (const Manner& manner : {Manner{64, 64, 1, 900}, Manner{37, 111, 3, 900}, Manner{256, 512, 4, 4096}})
    EXPECT_EQ(read(model, documents, manner), whole) << manner.chunk;
}

TEST(Perplexity, a_document_that_fits_no_memory) {
  const TinyModel model(tiny_config(), DType::f32, 1);
  try {
    read(model, documents_of({5, 300}), {64, 64, 2, 128});
    ADD_FAILURE() << "300 tokens in 128";
  } catch (const Error& error) {
    EXPECT_EQ(int(error.kind()), int(ErrorKind::out_of_memory)) << error.what();
  }
}

TEST(Perplexity, sums_by_kind_and_by_position) {
  PerplexityReport report;
  Rows rows(5000);
  std::iota(rows.begin(), rows.end(), -5000.f);
  report.add({.tokens = {}, .bytes = 10, .kind = "a"}, rows);
  report.add({.tokens = {}, .bytes = 20, .kind = "b"}, std::span(rows).last(1023));
  report.add({.tokens = {}, .bytes = 30, .kind = "a"}, std::span(rows).last(1024));
  report.add({.tokens = {}, .bytes = 1, .kind = "a"}, {});
  const auto sum = [](int64_t first, int64_t last) { return double((first + last) * (last - first + 1) / 2); };
  EXPECT_EQ(report.all.documents, 4);
  EXPECT_EQ(report.all.bytes, 61);
  EXPECT_EQ(report.all.tokens, 5000 + 1023 + 1024);
  EXPECT_EQ(report.all.nats, sum(1, 5000) + sum(1, 1023) + sum(1, 1024));
  EXPECT_EQ(report.kinds.at("a").nats, sum(1, 5000) + sum(1, 1024));
  EXPECT_EQ(report.kinds.at("a").bytes, 41);
  EXPECT_EQ(report.kinds.at("b").documents, 1);
  ASSERT_EQ(report.positions.size(), 3u);
  const auto expect = [&](size_t i, int64_t from, int64_t to, int64_t documents, int64_t tokens, double nats) {
    EXPECT_EQ(report.positions[i].from, from);
    EXPECT_EQ(report.positions[i].to, to);
    EXPECT_EQ(report.positions[i].sum.documents, documents);
    EXPECT_EQ(report.positions[i].sum.tokens, tokens);
    EXPECT_EQ(report.positions[i].sum.nats, nats);
  };
  expect(0, 1, 1024, 3, 3 * 1023, sum(5000 - 1022, 5000) + sum(1, 1023) + sum(2, 1024));
  expect(1, 1024, 4096, 2, 3072 + 1, sum(5000 - 4094, 5000 - 1023) + 1);
  expect(2, 4096, 16384, 1, 905, sum(1, 905));
}

}  // namespace
}  // namespace fulgur::tests

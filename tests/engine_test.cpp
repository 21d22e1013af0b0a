// label: slow
// Chunks, threads and neighbours leave every byte of a sequence's hidden rows and logits as they are.
#include "generate/engine.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

std::vector<int32_t> random_tokens(uint64_t seed, int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int32_t(philox(seed, uint64_t(i), 1)[0] % uint64_t(vocab)));
  return tokens;
}

// Every row's hidden vector and logits, in one traced run.
struct Rows {
  Buffer memory;
  Trace trace;
  Rows(const ModelConfig& c, DType type, int64_t tokens)
      : memory(size_t(tokens * (c.width + c.vocab_size) * 4), Purpose::workspace) {
    trace.hidden = memory.tensor(type, {tokens, c.width});
    trace.logits = contiguous(memory.data() + trace.hidden.bytes(), DType::f32, {}, {tokens, c.vocab_size});
  }
  std::vector<std::byte> bytes() const { return {memory.data(), memory.data() + memory.bytes()}; }
};

constexpr int64_t kTokens = 280;

std::vector<std::byte> run(const TinyModel& m, const std::vector<int32_t>& tokens, int64_t chunk, int threads) {
  Engine engine(m.config, m.weights,
                {.sequences = 1,
                 .tokens = kTokens,
                 .traces = true,
                 .threads = threads,
                 .limits = {.rows = kTokens, .chunk = chunk}});
  Rows rows(m.config, m.weights.flat.dtype, kTokens);
  Sequence sequence = engine.begin(tokens);
  sequence.trace = &rows.trace;
  Sequence* const running[] = {&sequence};
  while (sequence.pending() > 0) engine.step(running);
  return rows.bytes();
}

class Engines : public testing::TestWithParam<DType> {};

TEST_P(Engines, chunks_and_threads_change_no_byte) {
  const TinyModel m(tiny_config(), GetParam(), 7);
  const std::vector<int32_t> tokens = random_tokens(1, kTokens, m.config.vocab_size);
  const std::vector<std::byte> whole = run(m, tokens, kTokens, 1);
  for (const int64_t chunk : {int64_t(1), int64_t(17), int64_t(63), int64_t(64), int64_t(65), int64_t(256), kTokens})
    for (const int threads : {1, 2})
      EXPECT_EQ(run(m, tokens, chunk, threads), whole) << "chunk " << chunk << ", threads " << threads;
}

// The sequence among up to three others of random lengths and chunks, which start and end while it runs.
TEST_P(Engines, neighbours_change_no_byte) {
  const TinyModel m(tiny_config(), GetParam(), 8);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto draw = [&](uint64_t i, int64_t from, int64_t to) {
      return from + int64_t(philox(seed, i, 9)[0] % uint64_t(to - from + 1));
    };
    const std::vector<int32_t> tokens = random_tokens(seed, kTokens, m.config.vocab_size);
    const std::vector<std::byte> alone = run(m, tokens, kTokens, 1);

    Engine engine(m.config, m.weights,
                  {.sequences = 4,
                   .tokens = 1200,
                   .traces = true,
                   .threads = 2,
                   .limits = {.rows = 90, .chunk = draw(0, 1, 70)}});
    Rows rows(m.config, m.weights.flat.dtype, kTokens);
    std::vector<Sequence> others;
    for (uint64_t i = 0; i < 3; ++i) {
      others.push_back(
          engine.begin(random_tokens(100 + seed * 3 + i, draw(10 + i, 1, 140), m.config.vocab_size), i + 1));
      others.back().new_tokens = draw(20 + i, 0, 60);
    }
    Sequence sequence = engine.begin(tokens);
    sequence.trace = &rows.trace;
    int64_t together = 0;
    for (int64_t step = 0; sequence.pending() > 0; ++step) {
      std::vector<Sequence*> running;
      for (size_t i = 0; i < others.size(); ++i)
        if (step >= draw(30 + i, 0, 3)) running.push_back(&others[i]);
      running.insert(running.begin() + draw(40 + uint64_t(step), 0, int64_t(running.size())), &sequence);
      const int64_t at = sequence.state.position();
      int64_t moved = 0;
      std::vector<int64_t> before;
      for (const Sequence* s : running) before.push_back(s->state.position());
      engine.step(running);
      for (size_t i = 0; i < running.size(); ++i) moved += running[i]->state.position() > before[i];
      together += sequence.state.position() > at && moved > 1;
    }
    EXPECT_GT(together, 0) << "rows of several sequences lay in one batch";
    EXPECT_EQ(rows.bytes(), alone) << "seed " << seed;
  }
}

TEST_P(Engines, sampled_tokens_do_not_depend_on_neighbours) {
  const TinyModel m(tiny_config(), GetParam(), 9);
  const auto generate = [&](bool with_neighbour) {
    Engine engine(m.config, m.weights,
                  {.sequences = 2, .tokens = 400, .threads = 1, .limits = {.rows = 64, .chunk = 20}});
    Sequence one = engine.begin(random_tokens(3, 70, m.config.vocab_size), 5),
             two = engine.begin(random_tokens(4, 33, m.config.vocab_size), 6);
    for (Sequence* s : {&one, &two})
      s->new_tokens = 40, s->sampling = {.temperature = 0.9f, .top_k = 30, .top_p = 0.95f, .seed = 11};
    std::vector<Sequence*> running{&one};
    if (with_neighbour) running.insert(running.begin(), &two);
    while (one.new_tokens > 0) engine.step(running);
    return one.tokens;
  };
  EXPECT_EQ(generate(false), generate(true));
}

// On a GPU: shapes come again and again, with two sequences, with one, and a page is added on the way.
TEST_P(Engines, graphs_change_no_bit) {
  const TinyModel m(tiny_config(), GetParam(), 10);
  const auto generate = [&](bool graphs) {
    Engine engine(m.config, m.weights, {.sequences = 2, .tokens = 400, .threads = 1, .graphs = graphs});
    Sequence one = engine.begin(random_tokens(5, 58, m.config.vocab_size), 1),
             two = engine.begin(random_tokens(6, 3, m.config.vocab_size), 2);
    one.new_tokens = 12, two.new_tokens = 16, one.log_probs = two.log_probs = 0;
    std::vector<std::pair<int32_t, float>> written;
    std::vector<Sequence*> running{&one, &two};
    while (one.new_tokens + two.new_tokens > 0)
      for (const Sampled& s : engine.step(running)) written.emplace_back(s.token, s.log_probs->token);
    return written;
  };
  EXPECT_EQ(generate(true), generate(false));
}

INSTANTIATE_TEST_SUITE_P(Types, Engines, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace fulgur::tests

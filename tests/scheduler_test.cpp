// label: slow
// Whatever the scheduler does with a session - company, chunks, putting aside, forks, undo, images - its tokens and the
// bytes of its state are those of a session that runs alone.
#include "generate/scheduler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "generate/guess.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

std::vector<int32_t> random_tokens(uint64_t seed, int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int32_t(philox(seed, uint64_t(i), 1)[0] % uint64_t(vocab)));
  return tokens;
}

struct Dice {
  uint64_t seed, drawn = 0;
  int64_t operator()(int64_t from, int64_t to) {
    return from + int64_t(philox(seed, drawn++, 77)[0] % uint64_t(to - from + 1));
  }
};

const Sampling kSampling{.temperature = 0.9f,
                         .top_k = 40,
                         .repetition_penalty = 1.1f,
                         .presence_penalty = 0.2f,
                         .logit_bias = {{5, -0.5f}},
                         .seed = 3};

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<std::byte> state;
  bool operator==(const Outcome&) const = default;
};
Outcome outcome(Scheduler& scheduler, SessionId id) {
  Outcome o{scheduler.tokens(id), {}};
  const StateImage& image = scheduler.image(id);
  for (const auto& [name, t] : image.parts()) o.state.insert(o.state.end(), t.data, t.data + t.bytes());
  return o;
}
void run(Scheduler& scheduler) {
  while (!scheduler.idle()) scheduler.step();
}

struct Asked {
  std::vector<int32_t> prompt;
  int64_t tokens;
};
std::vector<Asked> turns(const TinyModel& m, uint64_t seed) {
  Dice dice{seed};
  std::vector<Asked> all;
  for (int i = 0; i < 3; ++i)
    all.push_back({random_tokens(seed * 10 + uint64_t(i), dice(1, 90), m.config.vocab_size), dice(0, 40)});
  return all;
}
Request request_of(const Asked& a) { return {.tokens = a.prompt, .max_tokens = a.tokens, .sampling = kSampling}; }

Outcome alone(const TinyModel& m, const std::vector<Asked>& turns) {
  Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 512});
  Scheduler scheduler(engine);
  const SessionId id = scheduler.open();
  for (const Asked& a : turns) scheduler.ask(id, request_of(a)), run(scheduler);
  return outcome(scheduler, id);
}

class Schedulers : public testing::TestWithParam<DType> {};

// Six conversations of three turns in a pool for three, of few pages, taken from at random.
TEST_P(Schedulers, company_and_lack_of_room_change_no_byte) {
  const TinyModel m(tiny_config(), GetParam(), 5);
  int64_t put_aside = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Dice dice{seed + 1000};
    Engine engine(
        m.config, m.weights,
        {.sequences = 3, .tokens = 400, .threads = 2, .limits = {.rows = dice(8, 120), .chunk = dice(1, 70)}});
    Scheduler scheduler(engine);
    std::map<SessionId, std::pair<uint64_t, size_t>> talks;  // seed, next turn
    for (uint64_t i = 0; i < 6; ++i) talks[scheduler.open()] = {seed * 6 + i, 0};
    for (int64_t step = 0;; ++step) {
      bool all_said = true;
      for (auto& [id, talk] : talks) {
        const std::vector<Asked> said = turns(m, talk.first);
        if (talk.second == said.size() || scheduler.busy(id)) continue;
        all_said = false;
        if (dice(0, 3) > 0) continue;
        Request r = request_of(said[talk.second++]);
        r.priority = int(dice(0, 2));
        scheduler.ask(id, std::move(r));
      }
      if (step % (3 + int64_t(seed % 5)) == 0) scheduler.put_aside(SessionId(dice(1, 6)));
      if (all_said && scheduler.idle()) break;
      scheduler.step();
    }
    put_aside += scheduler.times_put_aside();
    for (const auto& [id, talk] : talks)
      EXPECT_EQ(outcome(scheduler, id), alone(m, turns(m, talk.first))) << "seed " << seed << ", session " << id;
  }
  EXPECT_GT(put_aside, 100);
}

TEST_P(Schedulers, a_fork_is_a_replay) {
  const TinyModel m(tiny_config(), GetParam(), 6);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<Asked> trunk = turns(m, seed), one = turns(m, 100 + seed), two = turns(m, 200 + seed);
    Engine engine(m.config, m.weights, {.sequences = int64_t(1 + seed % 3), .tokens = 1000});
    Scheduler scheduler(engine);
    const SessionId a = scheduler.open();
    for (const Asked& t : trunk) scheduler.ask(a, request_of(t)), run(scheduler);
    const SessionId b = scheduler.fork(a);
    scheduler.ask(a, request_of(one[0])), scheduler.ask(b, request_of(two[0]));
    run(scheduler);
    const auto with = [&](const Asked& last) {
      std::vector<Asked> all = trunk;
      all.push_back(last);
      return all;
    };
    EXPECT_EQ(outcome(scheduler, a), alone(m, with(one[0]))) << "seed " << seed;
    EXPECT_EQ(outcome(scheduler, b), alone(m, with(two[0]))) << "seed " << seed;
  }
}

TEST_P(Schedulers, what_is_undone_was_never_there) {
  const TinyModel m(tiny_config(), GetParam(), 7);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Dice dice{seed};
    const std::vector<Asked> said = turns(m, seed);
    Engine engine(m.config, m.weights, {.sequences = 2, .tokens = 600, .limits = {.chunk = dice(1, 100)}});
    Scheduler scheduler(engine);
    const SessionId id = scheduler.open();
    for (const Asked& t : said) {
      if (dice(0, 1)) scheduler.mark(id);
      // Something else is said, and taken back: few tokens, or many.
      const size_t before = scheduler.tokens(id).size();
      scheduler.ask(id, request_of({random_tokens(seed + 50, dice(1, 100), m.config.vocab_size), dice(0, 30)}));
      run(scheduler);
      if (dice(0, 2) == 0) scheduler.put_aside(id);
      scheduler.undo(id, int64_t(scheduler.tokens(id).size() - before));
      EXPECT_EQ(scheduler.tokens(id).size(), before);
      scheduler.ask(id, request_of(t));
      run(scheduler);
    }
    EXPECT_EQ(outcome(scheduler, id), alone(m, said)) << "seed " << seed;
  }
}

TEST_P(Schedulers, an_image_goes_on_elsewhere) {
  const TinyModel m(tiny_config(), GetParam(), 8);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<Asked> said = turns(m, seed);
    std::vector<int32_t> tokens;
    std::optional<StateImage> image;
    for (const Asked& t : said) {
      Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 512});
      Scheduler scheduler(engine);
      const SessionId id = image ? scheduler.open(tokens, std::move(*image)) : scheduler.open();
      scheduler.ask(id, request_of(t)), run(scheduler);
      tokens = scheduler.tokens(id);
      image.emplace(scheduler.image(id).twin());
    }
    Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 512});
    Scheduler scheduler(engine);
    EXPECT_EQ(outcome(scheduler, scheduler.open(tokens, std::move(*image))), alone(m, said)) << "seed " << seed;
  }
}

// A text that repeats itself, so that guesses are right at times; five sequences, some of which guess.
TEST_P(Schedulers, guesses_change_no_token) {
  const TinyModel m(tiny_config(), GetParam(), 11);
  const auto said = [&](int32_t guesses, uint64_t seed, int64_t& steps) {
    Engine engine(m.config, m.weights,
                  {.sequences = 3, .tokens = 900, .guesses = guesses, .limits = {.rows = 40, .chunk = 33}});
    Scheduler scheduler(engine);
    std::vector<int32_t> prompt = random_tokens(seed, 9, m.config.vocab_size);
    for (int i = 0; i < 3; ++i) prompt.insert(prompt.end(), prompt.begin(), prompt.begin() + 9);
    std::vector<SessionId> ids;
    for (uint64_t i = 0; i < 5; ++i) {
      ids.push_back(scheduler.open());
      scheduler.ask(ids.back(),
                    {.tokens = prompt,
                     .max_tokens = 120,
                     .sampling = {.temperature = i % 2 ? 0.0f : 0.1f, .logit_bias = {{7, 0.3f}}, .seed = seed},
                     .choice = i,
                     .stop_ids = {i == 4 ? 3 : -1},
                     .guesses = i == 3 ? 0 : guesses});
    }
    for (; !scheduler.idle(); ++steps) scheduler.step();
    std::vector<Outcome> outcomes;
    for (const SessionId id : ids) outcomes.push_back(outcome(scheduler, id));
    return outcomes;
  };
  int64_t plain_steps = 0, guessing_steps = 0;
  for (uint64_t seed = 0; seed < 20; ++seed)
    EXPECT_EQ(said(0, seed, plain_steps), said(int32_t(1 + seed % 8), seed, guessing_steps)) << seed;
  EXPECT_LT(guessing_steps, plain_steps * 9 / 10) << "guesses are right at times";
}

INSTANTIATE_TEST_SUITE_P(Types, Schedulers, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(Scheduler, cancelling_frees_and_says_so) {
  const TinyModel m(tiny_config(), DType::f32, 9);
  Engine engine(m.config, m.weights, {.sequences = 2, .tokens = 256});
  Scheduler scheduler(engine);
  const SessionId a = scheduler.open();
  scheduler.ask(a, {.tokens = random_tokens(1, 20, 97), .max_tokens = 100});
  for (int i = 0; i < 5; ++i) scheduler.step();
  scheduler.cancel(a);
  EXPECT_FALSE(scheduler.busy(a));
  const std::vector<Event> events = scheduler.step();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].finish, Finish::cancelled);
  EXPECT_TRUE(scheduler.idle());
  const int64_t pages = engine.pool().free_pages();
  scheduler.close(a);
  EXPECT_GT(engine.pool().free_pages(), pages);
  EXPECT_EQ(engine.pool().free_slots(), 2);
  EXPECT_THROW(scheduler.tokens(a), Error);
}

TEST(Scheduler, says_what_does_not_fit_before_any_work) {
  const TinyModel m(tiny_config(), DType::f32, 9);
  Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 128});
  Scheduler scheduler(engine);
  const SessionId a = scheduler.open();
  try {
    scheduler.ask(a, {.tokens = random_tokens(1, 100, 97), .max_tokens = 1000});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    EXPECT_NE(std::string(e.what()).find("1100 tokens take 18 KV pages"), std::string::npos) << e.what();
  }
  EXPECT_FALSE(scheduler.busy(a));
  EXPECT_THROW(scheduler.ask(a, {.tokens = {97}, .max_tokens = 1}), Error) << "outside of the vocabulary";
  EXPECT_THROW(scheduler.ask(a, {.tokens = {}, .max_tokens = 1}), Error) << "nothing to read";
  scheduler.ask(a, {.tokens = {1}, .max_tokens = 1});
  EXPECT_THROW(scheduler.ask(a, {.tokens = {1}}), Error) << "busy";
  EXPECT_THROW(scheduler.undo(a, 1), Error) << "busy";
}

// A long prompt does not hold up those who write, and of two that wait the higher priority goes first.
TEST(Scheduler, writers_go_on_and_priority_goes_first) {
  const TinyModel m(tiny_config(), DType::f32, 9);
  Engine engine(m.config, m.weights, {.sequences = 2, .tokens = 2000, .limits = {.rows = 32, .chunk = 32}});
  Scheduler scheduler(engine);
  const SessionId writer = scheduler.open(), reader = scheduler.open(), low = scheduler.open(), high = scheduler.open();
  scheduler.ask(writer, {.tokens = {1}, .max_tokens = 30});
  scheduler.step();
  scheduler.ask(reader, {.tokens = random_tokens(2, 900, 97)});
  scheduler.ask(low, {.tokens = {1}, .max_tokens = 2});
  scheduler.ask(high, {.tokens = {1}, .max_tokens = 2, .priority = 1});
  std::vector<SessionId> order;
  for (int step = 0; !scheduler.idle(); ++step) {
    bool wrote = step >= 29;
    for (const Event& e : scheduler.step()) {
      wrote |= e.session == writer && e.token;
      if (e.finish != Finish::none) order.push_back(e.session);
    }
    EXPECT_TRUE(wrote) << step;
    EXPECT_TRUE(step != 28 || scheduler.position(reader) > 0) << "the prompt was read beside it";
  }
  EXPECT_LT(std::find(order.begin(), order.end(), high), std::find(order.begin(), order.end(), low));
}

TEST(Scheduler, stops_where_told) {
  const TinyModel m(tiny_config(), DType::f32, 9);
  Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 512});
  Scheduler scheduler(engine);
  const SessionId a = scheduler.open(), b = scheduler.open();
  const Request r{.tokens = random_tokens(1, 20, 97), .max_tokens = 100, .sampling = kSampling};
  scheduler.ask(a, r);
  run(scheduler);
  const std::vector<int32_t> tokens = scheduler.tokens(a);
  ASSERT_EQ(tokens.size(), 120u);
  Request stopped = r;
  stopped.stop_ids = {tokens[60]};
  scheduler.ask(b, stopped);
  Finish how = Finish::none;
  while (!scheduler.idle())
    for (const Event& e : scheduler.step()) how = e.finish;
  EXPECT_EQ(how, Finish::stop);
  const auto first = std::find(tokens.begin() + 20, tokens.end(), tokens[60]);
  EXPECT_EQ(scheduler.tokens(b), std::vector<int32_t>(tokens.begin(), first + 1));
}

// The answer to a fixed prompt.
std::vector<Event> answer(const TinyModel& m, Sampling sampling, int64_t max_tokens, int32_t log_probs = -1) {
  Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 256});
  Scheduler scheduler(engine);
  scheduler.ask(scheduler.open(), {.tokens = random_tokens(1, 20, 97),
                                   .max_tokens = max_tokens,
                                   .sampling = std::move(sampling),
                                   .log_probs = log_probs});
  std::vector<Event> events;
  while (!scheduler.idle())
    for (Event& e : scheduler.step()) events.push_back(std::move(e));
  return events;
}

TEST(Sampling, penalties_and_biases_do_what_they_say) {
  const TinyModel m(tiny_config(), DType::f32, 4);
  const auto most_uses = [&](const Sampling& s) {
    std::map<int32_t, int> uses;
    for (const Event& e : answer(m, s, 60)) ++uses[*e.token];
    return std::max_element(uses.begin(), uses.end(), [](const auto& a, const auto& b) { return a.second < b.second; })
        ->second;
  };
  EXPECT_GT(most_uses({.temperature = 0}), 3) << "a random model repeats itself";
  EXPECT_EQ(most_uses({.temperature = 0, .presence_penalty = 1000}), 1);
  EXPECT_EQ(most_uses({.temperature = 0, .frequency_penalty = 1000}), 1);
  const std::vector<int32_t> prompt = random_tokens(1, 20, 97);
  for (const Event& e : answer(m, {.temperature = 0, .repetition_penalty = 1e6f}, 30)) {
    EXPECT_EQ(std::count(prompt.begin(), prompt.end(), *e.token), 0) << *e.token;
  }
  for (const Event& e : answer(m, {.logit_bias = {{11, 1000.0f}}}, 10)) EXPECT_EQ(e.token, 11);
}

TEST(Sampling, logarithms_are_the_models_own) {
  const TinyModel m(tiny_config(), DType::f32, 4);
  const std::vector<Event> plain = answer(m, {.temperature = 0}, 5, 97);
  for (const Event& e : plain) {
    ASSERT_TRUE(e.log_probs);
    ASSERT_EQ(e.log_probs->top.size(), 97u);
    EXPECT_EQ(e.log_probs->top[0].first, *e.token) << "greedy";
    EXPECT_EQ(e.log_probs->top[0].second, e.log_probs->token);
    double sum = 0;
    for (const auto& [id, log_prob] : e.log_probs->top) sum += std::exp(double(log_prob));
    EXPECT_NEAR(sum, 1, 1e-5);
  }
  const Event biased = answer(m, {.temperature = 0, .logit_bias = {{11, 1000.0f}}}, 1, 2)[0];
  EXPECT_EQ(biased.token, 11);
  EXPECT_EQ(biased.log_probs->top[0], plain[0].log_probs->top[0]) << "before penalties and biases";
  EXPECT_EQ(biased.log_probs->top.size(), 2u);
  EXPECT_FALSE(answer(m, {}, 1)[0].log_probs);
}

TEST(Sampling, refuses_what_cannot_be_drawn_from) {
  const TinyModel m(tiny_config(), DType::f32, 4);
  const auto refused = [&](Sampling s, const char* field) {
    try {
      answer(m, std::move(s), 1);
      ADD_FAILURE() << field;
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).find(field), 0u) << e.what();
    }
  };
  refused({.temperature = -1}, "temperature");
  refused({.temperature = NAN}, "temperature");
  refused({.typical_p = 0}, "typical_p");
  refused({.top_p = 1.5f}, "top_p");
  refused({.min_p = -1}, "min_p");
  refused({.repetition_penalty = 0}, "repetition_penalty");
  refused({.logit_bias = {{97, 1.0f}}}, "logit_bias of id 97");
  refused({.logit_bias = {{1, 1.0f}, {1, 2.0f}}}, "logit_bias of id 1.0");
  refused({.logit_bias = {{1, INFINITY}}}, "a logit_bias");
}

TEST(Guesses, are_what_followed_the_same_tokens) {
  const auto guess = [](std::vector<int32_t> tokens, int64_t most) { return guess_next(tokens, most); };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 1, 2, 3}, 2), (Ids{4, 5}));
  EXPECT_EQ(guess({1, 2, 3, 4, 9, 2, 3, 7, 1, 2, 3}, 1), (Ids{4})) << "three tokens before two";
  EXPECT_EQ(guess({2, 3, 4, 2, 3, 7, 2, 3}, 1), (Ids{7})) << "the latest place";
  EXPECT_EQ(guess({5, 5, 5, 5}, 3), (Ids{5})) << "no more than was written";
  EXPECT_EQ(guess({1, 2, 3}, 3), Ids{});
  EXPECT_EQ(guess({1, 2, 1, 2}, 0), Ids{});
  EXPECT_EQ(guess({}, 3), Ids{});
  EXPECT_EQ(guess({1}, 3), Ids{});
}

}  // namespace
}  // namespace fulgur::tests

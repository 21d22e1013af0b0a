// Texts from prompts: pieces, stop strings, choices that share their prompt, and company that changes nothing.
#include "generate/completions.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/tiny_model.h"
#include "text/vocabulary.h"

namespace fulgur::tests {
namespace {

// One byte a token: printable ones and a few parts of characters first, which are those the tiny model knows.
const Tokenizer& tokenizer() {
  static const Tokenizer made = [] {
    Vocabulary v;
    for (int id = 0; id < 97; ++id)
      v.tokens.emplace_back(1, char(id < 90 ? ' ' + id : id == 90 ? 0xc3 : 0xa4 + id - 91));
    for (int byte = 0; byte < 256; ++byte) {
      const std::string token(1, char(byte));
      if (std::find(v.tokens.begin(), v.tokens.end(), token) == v.tokens.end()) v.tokens.push_back(token);
    }
    return Tokenizer(v);
  }();
  return made;
}

std::vector<int32_t> ids_of(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(c - ' ');
  return ids;
}

TEST(AnswerText, holds_back_what_may_become_a_stop_string) {
  AnswerText text(tokenizer(), {"STOP", "TO THE"});
  std::string shown;
  for (const int32_t id : ids_of("GO TO S")) shown += text.feed(id);
  EXPECT_EQ(shown, "GO TO ");
  for (const int32_t id : ids_of("TO THEM")) shown += text.feed(id);
  EXPECT_EQ(shown, "GO TO S");
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.flush(), "");
}

TEST(AnswerText, shows_all_where_nothing_stops) {
  AnswerText text(tokenizer(), {"STOP", ""});
  std::string shown;
  for (const int32_t id : ids_of("A STO")) shown += text.feed(id);
  EXPECT_EQ(shown, "A ");
  EXPECT_EQ(text.flush(), "STO");
  EXPECT_FALSE(text.stopped());
  EXPECT_EQ(text.feed(90), "");
  EXPECT_EQ(text.feed(91), "\xc3\xa4") << "both halves of a character";
  EXPECT_EQ(text.feed(5000), "\xEF\xBF\xBD") << "beyond the vocabulary";
}

struct Texts {
  TinyModel model{tiny_config(), DType::f32, 4};
  Engine engine;
  Scheduler scheduler{engine};
  Completions completions{scheduler, tokenizer()};
  std::map<std::pair<CompletionId, int64_t>, std::string> shown;

  explicit Texts(int64_t sequences) : engine(model.config, model.weights, {.sequences = sequences, .tokens = 700}) {}
  void run() {
    while (!completions.idle())
      for (const Piece& p : completions.step()) shown[{p.completion, p.choice}] += p.text;
  }
};

CompletionRequest request(const std::string& prompt, int64_t choices = 1) {
  return {.prompt = ids_of(prompt), .max_tokens = 60, .sampling = {.temperature = 1.2f, .seed = 8}, .choices = choices};
}

TEST(Completions, pieces_are_the_text) {
  Texts texts(3);
  std::map<std::string, CompletionId> ids;
  for (const char* prompt : {"A", "BEGIN", "ONE DAY", "THE END", "X"})
    ids[prompt] = texts.completions.start(request(prompt, 2));
  texts.run();
  for (const auto& [prompt, id] : ids) {
    ASSERT_TRUE(texts.completions.is_done(id));
    const std::vector<Completion> choices = texts.completions.take(id);
    ASSERT_EQ(choices.size(), 2u);
    EXPECT_NE(choices[0].ids, choices[1].ids);
    for (int64_t i = 0; i < 2; ++i) {
      EXPECT_EQ(choices[size_t(i)].text, (texts.shown[{id, i}]));
      EXPECT_EQ(choices[size_t(i)].ids.size(), 60u);
      EXPECT_EQ(choices[size_t(i)].finish, Finish::length);
    }
    Texts alone(1);
    const CompletionId same = alone.completions.start(request(prompt));
    alone.run();
    EXPECT_EQ(alone.completions.take(same)[0].ids, choices[0].ids) << "one choice or two, in company or alone";
  }
  EXPECT_EQ(texts.engine.pool().free_slots(), 3);
  EXPECT_EQ(texts.engine.pool().free_pages(), texts.engine.pool().all_pages());
}

TEST(Completions, a_stop_string_ends_the_text_before_it) {
  Texts texts(1);
  const CompletionId whole = texts.completions.start(request("BEGIN"));
  texts.run();
  const std::string text = texts.completions.take(whole)[0].text;
  CompletionRequest stopped = request("BEGIN");
  stopped.stop = {text.substr(20, 3)};
  const CompletionId id = texts.completions.start(stopped);
  texts.run();
  const Completion c = texts.completions.take(id)[0];
  EXPECT_EQ(c.finish, Finish::stop);
  EXPECT_EQ(c.text, text.substr(0, text.find(stopped.stop[0])));
  EXPECT_LT(c.ids.size(), 60u);
  EXPECT_TRUE(texts.scheduler.step().empty()) << "nothing is left of it";
}

TEST(Completions, refuse_and_cancel_without_leaving_anything) {
  Texts texts(2);
  CompletionRequest long_one = request("A", 3);
  long_one.max_tokens = 5000;
  EXPECT_THROW(texts.completions.start(long_one), Error);
  long_one.prompt = ids_of("SOME PROMPT");
  EXPECT_THROW(texts.completions.start({}), Error);
  const CompletionId reading = texts.completions.start(request("SOME PROMPT", 3));
  const CompletionId writing = texts.completions.start(request("OTHER"));
  for (int i = 0; i < 5; ++i) texts.completions.step();
  const CompletionId fresh = texts.completions.start(request("SOME PROMPT", 3));
  for (const CompletionId id : {reading, writing, fresh}) {
    texts.completions.cancel(id);
    EXPECT_TRUE(texts.completions.is_done(id));
    for (const Completion& c : texts.completions.take(id)) EXPECT_EQ(c.finish, Finish::cancelled);
  }
  EXPECT_TRUE(texts.completions.idle());
  EXPECT_EQ(texts.engine.pool().free_slots(), 2);
}

}  // namespace
}  // namespace fulgur::tests

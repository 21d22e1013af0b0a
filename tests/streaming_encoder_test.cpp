// StreamingEncoder: a text that comes in parts has the ids of the whole, wherever the parts are cut.
#include <gtest/gtest.h>

#include <random>

#include "text/tokenizer.h"
#include "text/vocabulary.h"

namespace fulgur::tests {
namespace {

using Ids = std::vector<int32_t>;

// Bytes, then every pair of the bytes that texts below are made of: a word that is cut in two has other ids.
Vocabulary pairs_vocabulary(PreTokenizer pre_tokenizer) {
  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = std::move(pre_tokenizer);
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.emplace_back(1, char(byte));
  const std::string bytes = "\n\r aB1.'/\xe4\xbd\xa0\xcc\x81\xe3\x80\xc2";
  for (const char left : bytes)
    for (const char right : bytes) {
      vocabulary.merges.push_back({uint8_t(left), uint8_t(right), int32_t(vocabulary.tokens.size())});
      vocabulary.tokens.push_back({left, right});
    }
  const auto add = [&](AddedToken token) {
    token.id = int32_t(vocabulary.tokens.size());
    vocabulary.tokens.push_back(token.content);
    vocabulary.added.push_back(token);
  };
  add({.content = "<a>"}), add({.content = "a B", .special = false}), add({.content = "\u00e1.", .normalized = true});
  return vocabulary;
}

std::string random_text(std::mt19937& random, unsigned parts) {
  static const std::string kParts[] = {"\n",   "\n",     "\n",   "\r\n",     " ",      "a",       "B",
                                       "a B",  "1",      ".",    "'s",       "/",      "<a>",     "<",
                                       "\xe4", "\u4f60", "\xff", "a\u0301.", "\u3000", "\u00a0",  "\u0301",
                                       "\x01", "\u1161", "a\n",  ".\n",      "a\nB",   "\u4f60\n"};
  std::string text;
  for (; parts > 0; --parts) text += kParts[random() % std::size(kParts)];
  return text;
}

const std::pair<const char*, PreTokenizer> kScanners[] = {
    {"gpt2", {SplitRule::gpt2}},
    {"cl100k", {SplitRule::cl100k}},
    {"qwen", {SplitRule::qwen}},
    {"o200k", {SplitRule::o200k}},
    {"deepseek", {SplitRule::deepseek_digits, SplitRule::deepseek_east_asian, SplitRule::deepseek_words}}};

TEST(StreamingEncoder, any_parts_have_the_ids_of_the_whole) {
  for (const auto& [name, pre_tokenizer] : kScanners)
    for (const Normalisation form : {Normalisation::none, Normalisation::nfc}) {
      Vocabulary vocabulary = pairs_vocabulary(pre_tokenizer);
      vocabulary.normalisation = form;
      const Tokenizer tokenizer(std::move(vocabulary));
      std::mt19937 random(5);
      size_t early = 0;
      for (int round = 0; round < 600; ++round) {
        const SpecialTokens special = round % 2 ? SpecialTokens::as_ids : SpecialTokens::as_text;
        const std::string text = random_text(random, random() % 60);
        StreamingEncoder encoder(tokenizer, special);
        Ids ids;
        const auto take = [&](std::span<const int32_t> known) { ids.insert(ids.end(), known.begin(), known.end()); };
        for (size_t at = 0; at < text.size();) {
          const size_t bytes = 1 + random() % 20;
          take(encoder.feed(std::string_view(text).substr(at, bytes)));
          at += bytes;
        }
        early += ids.size();
        take(encoder.flush());
        ASSERT_EQ(ids, tokenizer.encode(text, special)) << name << ": " << testing::PrintToString(text);
        ASSERT_TRUE(encoder.flush().empty());
      }
      EXPECT_GT(early, 2000u) << name;  // most ids come before the end
    }
}

TEST(Tokenizer, independent_prefix) {
  const Tokenizer tokenizer(pairs_vocabulary({SplitRule::o200k}));
  const std::pair<std::string, size_t> cases[] = {{"", 0},
                                                  {"a", 0},
                                                  {"\na", 0},
                                                  {"a\n", 0},
                                                  {"a\nB", 2},
                                                  {"a\nB\na", 4},
                                                  {"a\nB\n1", 2},
                                                  {"a\nB\n a", 2},
                                                  {"a\n\nB", 0},
                                                  {".\nB", 2},
                                                  {"a \nB", 0},
                                                  {"a\r\nB", 0},
                                                  {"\u3000\nB", 0},
                                                  {"\xff\nB", 2},
                                                  {"\u4f60\n\u4f60", 4},
                                                  {"a\n\xe4\xbd", 0},
                                                  {"a\n\u0301", 0},
                                                  {"a\n\u1161", 0},
                                                  {"a\n<a>", 0},
                                                  {"\xe4\xbd\nB", 3}};
  for (const auto& [text, bytes] : cases) EXPECT_EQ(tokenizer.independent_prefix(text), bytes) << text;
}

TEST(Tokenizer, no_prefix_is_independent_where_words_may_cross_lines) {
  Vocabulary vocabulary = pairs_vocabulary({SplitStep::by_icu("[a-z\n]+", Gaps::are_pieces)});
  EXPECT_EQ(Tokenizer(vocabulary).independent_prefix("a\nB\na"), 0u);
  vocabulary = pairs_vocabulary({SplitRule::o200k});
  vocabulary.added.push_back({.content = "a\nB", .id = 0});
  EXPECT_EQ(Tokenizer(vocabulary).independent_prefix("a\nB\na"), 0u);
}

}  // namespace
}  // namespace fulgur::tests

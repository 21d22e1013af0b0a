// Tokenizer: ids as published for four vocabularies, every rule by itself, and files that must be refused.
#include "text/tokenizer.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/scratch.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/unicode.h"
#include "text/vocabulary.h"
#include "text/word_cache.h"

namespace fulgur::tests {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

std::filesystem::path shared_folder() {
  const char* given = std::getenv("FULGUR_SHARED");
  return given ? std::filesystem::path(given) : std::filesystem::path(FULGUR_SOURCE) / ".." / "shared";
}

void unpack(const std::string& command) { ASSERT_EQ(std::system(command.c_str()), 0) << command; }

// The vocabularies of the shared folder, unpacked once for all tests of this file.
class Published : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto shared = shared_folder();
    if (!std::filesystem::exists(shared / "data/tokenizers.tar.xz")) return;
    scratch_ = new Scratch;
    unpack("tar -xJf '" + (shared / "data/tokenizers.tar.xz").string() + "' -C '" + scratch_->path().string() + "'");
    unpack("gunzip '" + (folder("qwen3") / "tokenizer.json.gz").string() + "' '" +
           (folder("deepseek_v3") / "tokenizer.json.gz").string() + "'");
    std::filesystem::create_directories(folder("minimax"));
    unpack("xz -dc '" + (shared / "data/tokenizers/minimax/tokenizer.json.xz").string() + "' > '" +
           (folder("minimax") / "tokenizer.json").string() + "'");
  }
  static void TearDownTestSuite() { delete std::exchange(scratch_, nullptr); }
  void SetUp() override {
    if (!scratch_) GTEST_SKIP() << "no vocabularies in " << shared_folder() << "; set FULGUR_SHARED";
  }

  static std::filesystem::path folder(const std::string& name) { return scratch_->path() / "tokenizers" / name; }

  static void expect_ids(const std::string& name, const Json& cases, size_t count) {
    const Tokenizer tokenizer = Tokenizer::load(folder(name));
    EXPECT_EQ(cases.size(), count);
    for (const Json& wanted : cases) {
      const auto text = wanted["text"].get<std::string>();
      const auto special = wanted.value("special", true) ? SpecialTokens::as_ids : SpecialTokens::as_text;
      EXPECT_EQ(tokenizer.encode(text, special), wanted["ids"].get<Ids>()) << name << ": " << wanted["text"].dump();
      std::string storage;
      const bool nfc = name == "minimax" || name == "qwen3";
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, special)),
                cleaned(text, nfc ? Normalisation::nfc : Normalisation::none, storage));
    }
  }
  static Json vectors(const std::string& name) {
    return Json::parse(slurp(folder("vectors") / (name + ".json")))["cases"];
  }

 private:
  static inline Scratch* scratch_ = nullptr;
};

TEST_F(Published, golden) {
  expect_ids("minimax", Json::parse(slurp(shared_folder() / "golden/tokenizer_golden.json")), 18);
}
TEST_F(Published, minimax) { expect_ids("minimax", vectors("minimax"), 890); }
TEST_F(Published, gpt2) { expect_ids("gpt2", vectors("gpt2"), 874); }
TEST_F(Published, qwen3) { expect_ids("qwen3", vectors("qwen3"), 898); }
TEST_F(Published, deepseek_v3) { expect_ids("deepseek_v3", vectors("deepseek_v3"), 890); }

TEST_F(Published, facts_of_minimax) {
  const Tokenizer tokenizer = Tokenizer::load(folder("minimax") / "tokenizer.json");
  EXPECT_EQ(tokenizer.vocab_size(), 200026);
  EXPECT_EQ(tokenizer.id_of("<end_of_sentence>"), 200020);
  EXPECT_EQ(tokenizer.id_of("Hello"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(200025));
  EXPECT_FALSE(tokenizer.is_special(19739));
  EXPECT_EQ(tokenizer.bytes_of(200025), "<image>");
  EXPECT_NE(tokenizer.digest(), Tokenizer::load(folder("gpt2")).digest());
  expect_error(ErrorKind::invalid_input, {"200026", "200025"}, [&] { tokenizer.decode(Ids{200026}); });
  expect_error(ErrorKind::invalid_input, {"-1"}, [&] { tokenizer.decode(Ids{-1}); });
}

// A small vocabulary of our own: the bytes, then "th", "the", " the", "ab", "bc", and added tokens.
Vocabulary small_vocabulary() {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.emplace_back(1, char(byte));
  const auto merge = [&](int32_t left, int32_t right) {
    const auto result = int32_t(vocabulary.tokens.size());
    vocabulary.merges.push_back({left, right, result});
    vocabulary.tokens.push_back(vocabulary.tokens[size_t(left)] + vocabulary.tokens[size_t(right)]);
  };
  merge('t', 'h'), merge(256, 'e'), merge(' ', 257), merge('a', 'b'), merge('b', 'c');
  const auto add = [&](AddedToken token) {
    token.id = int32_t(vocabulary.tokens.size());
    vocabulary.tokens.push_back(token.content);
    vocabulary.added.push_back(token);
  };
  add({.content = "<a>"}), add({.content = "<a>b"}), add({.content = "<think>", .special = false});
  add({.content = "\u00e9!", .special = false, .normalized = true});
  return vocabulary;
}

TEST(Tokenizer, added_tokens) {
  const Tokenizer tokenizer(small_vocabulary());
  EXPECT_EQ(tokenizer.encode("x<a>y<a>by", SpecialTokens::as_ids), (Ids{'x', 261, 'y', 262, 'y'}));
  EXPECT_EQ(tokenizer.encode("<a>b", SpecialTokens::as_text), (Ids{'<', 'a', '>', 'b'}));
  EXPECT_EQ(tokenizer.encode("<a<think>", SpecialTokens::as_text), (Ids{'<', 'a', 263}));
  EXPECT_EQ(tokenizer.encode("<a>b<a>the", SpecialTokens::as_ids), (Ids{262, 261, 257}));
  // looked for after normalisation: the text has the accent as a character of its own
  EXPECT_EQ(tokenizer.encode("e\u0301!", SpecialTokens::as_text), (Ids{264}));
  EXPECT_EQ(tokenizer.encode("", SpecialTokens::as_ids), Ids{});
}

TEST(Tokenizer, words_looked_up) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.tokens.push_back("abc");
  EXPECT_EQ(Tokenizer(vocabulary).encode("abc", SpecialTokens::as_text), (Ids{259, 'c'}));
  vocabulary.whole_words = WholeWords::looked_up;
  EXPECT_EQ(Tokenizer(vocabulary).encode("abc abcd", SpecialTokens::as_text), (Ids{265, ' ', 259, 'c', 'd'}));
}

TEST(Tokenizer, digest_tells_vocabularies_apart) {
  const Vocabulary base = small_vocabulary();
  Vocabulary other = base;
  EXPECT_EQ(Tokenizer(base).digest(), Tokenizer(other).digest());
  std::swap(other.merges[0], other.merges[3]);
  EXPECT_NE(Tokenizer(base).digest(), Tokenizer(other).digest());
  other = base, other.normalisation = Normalisation::none;
  EXPECT_NE(Tokenizer(base).digest(), Tokenizer(other).digest());
  other = base, other.pre_tokenizer = {SplitRule::gpt2};
  EXPECT_NE(Tokenizer(base).digest(), Tokenizer(other).digest());
  other = base, other.added[0].special = false;
  EXPECT_NE(Tokenizer(base).digest(), Tokenizer(other).digest());
}

TEST(Tokenizer, invalid_utf8_is_replaced) {
  const Tokenizer tokenizer(small_vocabulary());
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFFz", "a\uFFFDz"},
      {"\xE4\xBD", "\uFFFD"},                            // cut off
      {"\xE4\xBD(", "\uFFFD("},                          // cut off by something else
      {"\xC0\xAF", "\uFFFD\uFFFD"},                      // overlong
      {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},            // overlong
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},            // a surrogate
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // beyond U+10FFFF
      {"\xF0\x9F\x98"
       "A\xF0\x9F\x98\x80",
       "\uFFFD"
       "A\U0001F600"},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(to_valid_utf8(bytes), text);
    EXPECT_EQ(tokenizer.encode(bytes, SpecialTokens::as_text), tokenizer.encode(text, SpecialTokens::as_text));
  }
}

TEST(Tokenizer, streaming_shows_whole_characters_only) {
  const Tokenizer tokenizer(small_vocabulary());
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    // parts of characters in valid and in broken order
    Ids ids;
    for (const char byte : std::string("h\u00e9\u4f60\U0001F600")) ids.push_back(uint8_t(byte));
    for (unsigned i = random() % 4; i > 0; --i) ids[random() % ids.size()] = int32_t(random() % 256);
    ids.resize(random() % (ids.size() + 1));
    std::string bytes;
    std::string shown;
    StreamingDecoder decoder(tokenizer);
    for (const int32_t id : ids) {
      bytes += char(id);
      shown += decoder.feed(id);
      ASSERT_EQ(to_valid_utf8(shown), shown);
      // never later than it can be known
      std::string known;
      append_valid_utf8(bytes, known);
      ASSERT_EQ(shown, known);
    }
    shown += decoder.flush();
    ASSERT_EQ(shown, to_valid_utf8(tokenizer.decode(ids)));
    ASSERT_EQ(decoder.flush(), "");
  }
}

TEST(Tokenizer, a_shared_cache_changes_nothing) {
  const Tokenizer tokenizer(small_vocabulary());
  WordCache cache(4);  // words push each other out
  std::mt19937 random(2);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (unsigned i = random() % 60; i > 0; --i) text += "abc the\n1"[random() % 9];
    Ids cached;
    tokenizer.encode(text, SpecialTokens::as_text, cache, cached);
    ASSERT_EQ(cached, tokenizer.encode(text, SpecialTokens::as_text)) << text;
    // without any cache: one word at a time
    Ids plain;
    Splitter words({SplitRule::o200k}, text);
    for (auto word = words.next(); !word.empty(); word = words.next()) {
      const Ids ids = tokenizer.encode(word, SpecialTokens::as_text);
      plain.insert(plain.end(), ids.begin(), ids.end());
    }
    ASSERT_EQ(cached, plain) << text;
  }
}

// The definition, in quadratic time.
Ids merged_naively(const Vocabulary& vocabulary, const std::string& word) {
  Ids ids;
  for (const char byte : word) ids.push_back(uint8_t(byte));
  while (true) {
    size_t best = vocabulary.merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        const Merge& merge = vocabulary.merges[rank];
        if (merge.left == ids[i] && merge.right == ids[i + 1]) best = rank, at = i;
      }
    }
    if (best == vocabulary.merges.size()) return ids;
    ids[at] = vocabulary.merges[best].result;
    ids.erase(ids.begin() + int64_t(at) + 1);
  }
}

// Merges of the given bytes and of each other.
Vocabulary random_vocabulary(std::mt19937& random, const std::string& bytes, unsigned merges) {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.emplace_back(1, char(byte));
  const auto any = [&] {
    const size_t pick = random() % (bytes.size() + vocabulary.merges.size());
    return pick < bytes.size() ? int32_t(uint8_t(bytes[pick])) : int32_t(256 + pick - bytes.size());
  };
  while (vocabulary.merges.size() < merges) {
    const Merge merge{any(), any(), int32_t(vocabulary.tokens.size())};
    const auto is_same = [&](const Merge& other) { return other.left == merge.left && other.right == merge.right; };
    if (std::any_of(vocabulary.merges.begin(), vocabulary.merges.end(), is_same)) continue;
    vocabulary.merges.push_back(merge);
    vocabulary.tokens.push_back(vocabulary.tokens[size_t(merge.left)] + vocabulary.tokens[size_t(merge.right)]);
  }
  return vocabulary;
}

TEST(BytePairs, earliest_merge_first_at_every_length) {
  std::mt19937 random(3);
  Ids bytes(256);
  for (int32_t byte = 0; byte < 256; ++byte) bytes[size_t(byte)] = byte;
  for (int round = 0; round < 400; ++round) {
    const std::string letters = std::string("abc").substr(0, 1 + random() % 3);
    const Vocabulary vocabulary = random_vocabulary(random, letters, 12);
    const BytePairMerger merger(std::span<const int32_t, 256>(bytes), vocabulary.merges, vocabulary.tokens);
    for (const size_t length : {1, 2, 3, 17, 63, 64, 65, 200}) {
      std::string word;
      while (word.size() < length) word += letters[random() % letters.size()];
      Ids ids;
      merger.append_tokens(word, ids);
      ASSERT_EQ(ids, merged_naively(vocabulary, word)) << word;
    }
  }
}

TEST(BytePairs, cuts_between_characters_change_nothing) {
  const std::string characters[] = {"\u4f60", "\u597d", "\u4e16", "\u5f20", "\u0434", "\u0436"};
  std::mt19937 random(8);
  Ids bytes(256);
  for (int32_t byte = 0; byte < 256; ++byte) bytes[size_t(byte)] = byte;
  size_t cut = 0;
  for (int round = 0; round < 400; ++round) {
    // tokens of parts of characters too: their bytes in any order
    const Vocabulary vocabulary = random_vocabulary(random, "\xe4\xbd\xa0\xe5\xa5\xbd\xb8\x96\xbc\xd0\xb4", 40);
    const Tokenizer tokenizer(vocabulary);
    const BytePairMerger merger(std::span<const int32_t, 256>(bytes), vocabulary.merges, vocabulary.tokens);
    for (int i = 0; i < 20; ++i) {
      std::string word;
      for (unsigned length = random() % 40; length > 0; --length) word += characters[random() % 6];
      ASSERT_EQ(tokenizer.encode(word, SpecialTokens::as_text), merged_naively(vocabulary, word)) << word;
      cut += merger.independent_prefix(word) < word.size();
    }
  }
  EXPECT_GT(cut, 1000u);  // of 8,000 words: the cutting is used
}

TEST(BytePairs, a_very_long_word_ends) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.merges.push_back({'a', 'a', int32_t(vocabulary.tokens.size())});
  vocabulary.tokens.push_back("aa");
  const Ids ids = Tokenizer(vocabulary).encode(std::string(2'000'001, 'a'), SpecialTokens::as_text);
  EXPECT_EQ(ids.size(), 1'000'001u);
}

}  // namespace
}  // namespace fulgur::tests

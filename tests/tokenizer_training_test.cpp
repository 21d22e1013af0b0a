// Training a vocabulary: the definition recomputed from scratch at every merge, the layout of ids, and the command.
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/scratch.h"
#include "text/bpe_train.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace fulgur::tests {
namespace {

using Ids = std::vector<int32_t>;

Vocabulary trained(int64_t size, const std::vector<std::string>& documents) {
  BpeTrainer trainer(size);
  for (const std::string& document : documents) trainer.add(document);
  return trainer.train([](int64_t, int64_t) {});
}

// The merges by counting every pair anew each time. Texts are ASCII.
std::vector<Merge> merges_by_definition(size_t merges, const std::vector<std::string>& documents) {
  std::vector<Ids> words;
  for (const std::string& document : documents) {
    Splitter splitter({SplitRule::o200k}, document);
    for (auto word = splitter.next(); !word.empty(); word = splitter.next())
      words.emplace_back(word.begin(), word.end());
  }
  std::vector<Merge> found;
  while (found.size() < merges) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const Ids& word : words) {
      for (size_t i = 1; i < word.size(); ++i) ++counts[{word[i - 1], word[i]}];
    }
    auto best = counts.begin();
    for (auto pair = counts.begin(); pair != counts.end(); ++pair) {
      if (pair->second > best->second) best = pair;
    }
    const auto [left, right] = best->first;
    const auto result = int32_t(256 + found.size());
    found.push_back({left, right, result});
    for (Ids& word : words) {
      Ids merged;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool match = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
        merged.push_back(match ? result : word[i]);
        i += match;
      }
      word = merged;
    }
  }
  return found;
}

std::string random_words(std::mt19937& random, size_t bytes, unsigned letters) {
  std::string text;
  while (text.size() < bytes) text += random() % 6 == 0 ? ' ' : char('a' + random() % letters);
  return text;
}

TEST(Training, the_most_frequent_pair_becomes_a_token) {
  std::mt19937 random(5);
  for (const unsigned letters : {1u, 2u, 3u, 8u}) {  // few letters: pairs overlap with themselves, counts are equal
    std::vector<std::string> documents;
    for (int i = 0; i < 3; ++i) documents.push_back(random_words(random, 2000, letters));
    const size_t merges = letters == 1 ? 8 : 60;
    EXPECT_EQ(trained(260 + int64_t(merges), documents).merges, merges_by_definition(merges, documents)) << letters;
  }
}

TEST(Training, ids_are_bytes_then_merges_then_special_tokens) {
  const Vocabulary vocabulary = trained(270, {"the then them theme, another theatre; thermal\n"});
  ASSERT_EQ(vocabulary.tokens.size(), 270u);
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(vocabulary.tokens[size_t(byte)], std::string(1, char(byte)));
  ASSERT_EQ(vocabulary.merges.size(), 10u);
  for (size_t i = 0; i < 10; ++i) {
    const Merge& merge = vocabulary.merges[i];
    EXPECT_EQ(merge.result, int32_t(256 + i));
    EXPECT_EQ(vocabulary.tokens[256 + i],
              vocabulary.tokens[size_t(merge.left)] + vocabulary.tokens[size_t(merge.right)]);
  }
  const Tokenizer tokenizer(vocabulary);
  EXPECT_EQ(tokenizer.id_of("<beginning_of_sentence>"), 266);
  EXPECT_EQ(tokenizer.id_of("<end_of_sentence>"), 267);
  EXPECT_EQ(tokenizer.id_of("<end_of_document>"), 268);
  EXPECT_EQ(tokenizer.id_of("<pad>"), 269);
  EXPECT_EQ(tokenizer.encode("<pad>", SpecialTokens::as_ids), Ids{269});
}

TEST(Training, the_order_of_documents_does_not_matter) {
  std::mt19937 random(6);
  std::vector<std::string> documents;
  for (int i = 0; i < 20; ++i) documents.push_back(random_words(random, 500, 5));
  const Vocabulary forward = trained(400, documents);
  std::reverse(documents.begin(), documents.end());
  EXPECT_EQ(forward.merges, trained(400, documents).merges);
}

TEST(Training, text_is_normalised) {
  EXPECT_EQ(trained(262, {"e\u0301 e\u0301 x"}).merges, trained(262, {"\u00e9 \u00e9 x"}).merges);
}

TEST(Training, any_bytes_come_back) {
  const Tokenizer tokenizer(trained(280, {"some text, some words, some more of the same text"}));
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    std::string ascii;
    for (unsigned i = random() % 100; i > 0; --i) ascii += char(random() % 128);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(ascii, SpecialTokens::as_text)), ascii);
  }
}

TEST(Training, refused_sizes) {
  expect_error(ErrorKind::invalid_input, {"259", "260"}, [] { BpeTrainer trainer(259); });
  expect_error(ErrorKind::invalid_input, {"5000000", "2097152"}, [] { BpeTrainer trainer(5'000'000); });
  expect_error(ErrorKind::invalid_input, {"300", "263"}, [] { trained(300, {"abcd"}); });
  EXPECT_EQ(trained(260, {}).tokens.size(), 260u);
}

#ifdef FULGUR_PROGRAM

Finished train_command(const Scratch& scratch, const std::string& out, const std::vector<std::string>& files) {
  std::vector<std::string> arguments{FULGUR_PROGRAM, "tokenizer", "train",      "--vocab-size",
                                     "280",          "--out",     scratch / out};
  arguments.insert(arguments.end(), files.begin(), files.end());
  return Child(arguments, scratch / "output").wait();
}

TEST(Training, command) {
  const Scratch scratch;
  spill(scratch / "a.txt", "the cat and the hat\n<|endoftext|>\nand the bat sat on that mat\n");
  spill(scratch / "b.jsonl",
        "{\"text\": \"and the bat sat on that mat\\n\"}\n{\"text\": \"the cat and the hat\\n\"}\n");
  for (const char* name : {"a", "b"}) {
    const Finished told =
        train_command(scratch, name, {scratch / (name + std::string(name[0] == 'a' ? ".txt" : ".jsonl"))});
    EXPECT_EQ(told.exit, 0) << told.err;
    EXPECT_EQ(told.out, "");
    EXPECT_NE(told.err.find("20 of 20"), told.err.npos) << told.err;
  }
  const std::string written = slurp(scratch / "a" / "tokenizer.json");
  EXPECT_EQ(written, slurp(scratch / "b" / "tokenizer.json"));
  const Tokenizer expected(trained(280, {"the cat and the hat\n", "and the bat sat on that mat\n"}));
  EXPECT_EQ(Tokenizer::load(scratch / "a").digest(), expected.digest());
  const auto config = nlohmann::json::parse(slurp(scratch / "a" / "tokenizer_config.json"));
  EXPECT_EQ(config["bos_token"], "<beginning_of_sentence>");
  EXPECT_EQ(config["eos_token"], "<end_of_sentence>");
  EXPECT_EQ(train_command(scratch, "c", {scratch / "nowhere.txt"}).exit, 3);
  EXPECT_FALSE(std::filesystem::exists(scratch / "c"));
}

#endif

}  // namespace
}  // namespace fulgur::tests

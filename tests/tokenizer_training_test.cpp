// Training a vocabulary: the definition recomputed from scratch at every merge, the layout of ids, and the command.
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "data/document_stream.h"
#include "tests/scratch.h"
#include "text/bpe_train.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace fulgur::tests {
namespace {

using Ids = std::vector<int32_t>;

Vocabulary trained(int64_t size, const std::vector<std::string>& documents, const BpeTrainerOptions& options = {}) {
  BpeTrainer trainer(size, options);
  for (size_t i = 0; i < documents.size(); i += 3)
    trainer.add(std::span(documents).subspan(i, std::min<size_t>(3, documents.size() - i)));
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

TEST(Training, neither_order_nor_threads_nor_what_waits_on_disk_matter) {
  std::mt19937 random(6);
  std::vector<std::string> documents;
  for (int i = 0; i < 20; ++i) documents.push_back(random_words(random, 500, 2));
  const std::vector<Merge> merges = trained(300, documents).merges;
  std::reverse(documents.begin(), documents.end());
  EXPECT_EQ(merges, trained(300, documents).merges);
  for (const int threads : {1, 2, 5})
    for (const int64_t memory : {1'000'000, 1 << 30})  // less than a table's first block: every batch goes to disk
      EXPECT_TRUE(merges == trained(300, documents, {.threads = threads, .memory_bytes = memory}).merges) << threads;
}

using Counts = std::map<std::string, int64_t>;

CountedWords counted(const std::vector<std::string>& documents, int threads, int64_t table_memory, int64_t memory) {
  WordCounts counts(threads, table_memory, std::filesystem::temp_directory_path());
  for (const std::string& document : documents) counts.add({&document, 1});
  return counts.take(memory, {.per_word = 1, .per_byte = 1});
}

Counts by_word(const CountedWords& words) {
  Counts counts;
  size_t begin = 0;
  for (size_t i = 0; i < words.counts.size(); begin += words.bytes[i], ++i)
    counts[words.text.substr(begin, words.bytes[i])] = words.counts[i];
  EXPECT_EQ(counts.size(), words.counts.size()) << "a word came twice";
  return counts;
}

TEST(WordCounts, a_table_has_each_word_once) {
  WordTable table;
  for (int round = 0; round < 3; ++round)
    for (int i = 0; i < 20'000; ++i) table.add(std::to_string(i));
  EXPECT_EQ(table.entries().size(), 20'000u);
  table.sort();
  EXPECT_EQ(table.entries()[1].word(), "1");
  for (const WordTable::Entry& entry : table.entries()) ASSERT_EQ(entry.count, 3) << entry.word();
}

TEST(WordCounts, are_exact_in_any_memory) {
  std::mt19937 random(8);
  std::vector<std::string> documents;
  Counts want;
  for (int i = 0; i < 10; ++i) {
    documents.push_back(random_words(random, 20000, 4) + std::string(i == 4 ? 2 << 20 : 0, 'z'));
    Splitter splitter({SplitRule::o200k}, documents.back());
    for (auto word = splitter.next(); !word.empty(); word = splitter.next()) ++want[std::string(word)];
  }
  for (const int threads : {1, 3})
    for (const int64_t memory : {0, 1 << 30}) {
      const CountedWords words = counted(documents, threads, memory, 1 << 30);
      EXPECT_EQ(by_word(words), want) << threads << " threads, " << memory << " bytes";
      EXPECT_EQ(words.occurrences, words.all_occurrences);
    }
}

TEST(WordCounts, keep_the_most_frequent_words) {
  std::string text;
  for (int i = 100; i < 200; ++i) text += " often often word" + std::string(1, char('a' + i % 26)) + std::to_string(i);
  // " often" and the 26 " worda" .. are frequent, "100" .. "199" are single
  const Counts all = by_word(counted({text}, 1, 0, 1 << 30));
  int64_t frequent_cost = 0, single_cost = 0;
  for (const auto& [word, count] : all) (count > 1 ? frequent_cost : single_cost) += 1 + int64_t(word.size());
  ASSERT_GT(single_cost, 300);
  const CountedWords half = counted({text}, 1, 0, frequent_cost + single_cost / 2);
  EXPECT_EQ(by_word(half), by_word(counted({text}, 3, 1 << 30, frequent_cost + single_cost / 2)));
  const Counts kept = by_word(half);
  int64_t cost = 0, single = 0, early = 0;
  for (const auto& [word, count] : kept) {
    EXPECT_EQ(count, all.at(word));
    cost += 1 + int64_t(word.size()), single += count == 1, early += count == 1 && word < "150";
  }
  EXPECT_LE(cost, frequent_cost + single_cost / 2);
  EXPECT_GT(cost, frequent_cost + single_cost / 2 - 10);
  EXPECT_EQ(all.size() - kept.size(), size_t(100 - single)) << "what is frequent stays";
  EXPECT_NEAR(double(early), double(single) / 2, 2) << "a part that is spread evenly";
  EXPECT_EQ(half.all_words, int64_t(all.size()));
  EXPECT_EQ(half.all_occurrences - half.occurrences, 100 - single);
}

TEST(WordCounts, a_spill_folder_that_is_none) {
  expect_error(ErrorKind::not_found, {"/nowhere"}, [] {
    WordCounts counts(1, 0, "/nowhere");
    const std::string text = "text";
    counts.add({&text, 1});
  });
}

// What training reads of a long document are pieces of it.
TEST(WordCounts, pieces_have_the_words_of_the_whole) {
  const std::vector<std::string> parts{"a",  "the", " ",      "\n",     "\n",     "\r\n",   "\t",     "/",         "!",
                                       "'s", "12",  "\u0301", "\u00e9", "\u3000", "\u4e2d", "\u2028", "\U0001F600"};
  std::mt19937 random(9);
  const Scratch scratch;
  for (int round = 0; round < 50; ++round) {
    std::string text = "x";
    while (text.size() < 2000) text += parts[random() % parts.size()];
    spill(scratch / "a.txt", text);
    std::vector<std::string> pieces;
    DocumentStream stream(scratch / "a.txt", 20);
    for (Document piece; stream.next(piece);) pieces.push_back(piece.text);
    ASSERT_GT(pieces.size(), 10u);
    ASSERT_EQ(by_word(counted(pieces, 1, 1 << 30, 1 << 30)), by_word(counted({text}, 1, 1 << 30, 1 << 30)));
  }
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
    EXPECT_NE(told.err.find("merges 20/20"), told.err.npos) << told.err;
  }
  const std::string written = slurp(scratch / "a" / "tokenizer.json");
  for (const char* threads : {"1", "2"}) {
    const Finished told = train_command(scratch, threads, {scratch / "a.txt", "--threads", threads, "--memory", "1"});
    EXPECT_EQ(told.exit, 0) << told.err;
    EXPECT_EQ(written, slurp(scratch / threads / "tokenizer.json"));
  }
  EXPECT_EQ(written, slurp(scratch / "b" / "tokenizer.json"));
  const Tokenizer expected(trained(280, {"the cat and the hat\n", "and the bat sat on that mat\n"}));
  EXPECT_EQ(Tokenizer::load(scratch / "a").digest(), expected.digest());
  const auto config = nlohmann::json::parse(slurp(scratch / "a" / "tokenizer_config.json"));
  EXPECT_EQ(config["bos_token"], "<beginning_of_sentence>");
  EXPECT_EQ(config["eos_token"], "<end_of_sentence>");
  EXPECT_EQ(train_command(scratch, "c", {scratch / "nowhere.txt"}).exit, 3);
  const Finished homeless = Child({"/usr/bin/env", "TMPDIR=/nowhere", FULGUR_PROGRAM, "tokenizer", "train",
                                   "--vocab-size", "280", "--out", scratch / "c", scratch / "a.txt"},
                                  scratch / "output")
                                .wait();
  expect_exit(homeless, 3);
  EXPECT_NE(homeless.err.find("TMPDIR"), homeless.err.npos);
  EXPECT_FALSE(std::filesystem::exists(scratch / "c"));
}

TEST(Compare, counts_by_kind_and_tokenizer) {
  const Scratch scratch;
  const std::string text = "the cat and the hat and \u4e2d\u6587 on the mat\n";
  spill(scratch / "a.jsonl",
        "{\"text\": \"" + text.substr(0, text.size() - 1) + "\\n\", \"kind\": \"prose\"}\n{\"text\": \"xyz\"}\n");
  spill(scratch / "b.txt", text + "<|endoftext|>\nthe hat\n");
  ASSERT_EQ(train_command(scratch, "ours", {scratch / "b.txt"}).exit, 0);
  const std::string tiny = std::string(FULGUR_SOURCE) + "/data/tiny/tokenizer";
  const auto compare = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"tokenizer",
                                       "compare",
                                       scratch / "ours",
                                       "other=" + tiny,
                                       "--data",
                                       scratch / "a.jsonl",
                                       "prose=" + (scratch / "b.txt").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments, scratch / "compare");
  };
  const Finished told = compare({"--json", "--threads", "2"});
  ASSERT_EQ(told.exit, 0) << told.err;
  const auto report = nlohmann::json::parse(told.out);
  ASSERT_EQ(report["kinds"].size(), 2u);
  EXPECT_EQ(report["kinds"][0]["kind"], "a");
  const nlohmann::json& prose = report["kinds"][1];
  EXPECT_EQ(prose["kind"], "prose");
  EXPECT_EQ(prose["bytes"], 2 * text.size() + 8);
  EXPECT_EQ(prose["characters"], 2 * (text.size() - 4) + 8);
  for (size_t t = 0; t < 2; ++t) {
    const Tokenizer tokenizer = Tokenizer::load(t == 0 ? (scratch / "ours").string() : tiny);
    const size_t tokens = 2 * tokenizer.encode(text, SpecialTokens::as_text).size() +
                          tokenizer.encode("the hat\n", SpecialTokens::as_text).size();
    const nlohmann::json& counts = prose["tokenizers"][t];
    EXPECT_EQ(counts["name"], t == 0 ? "ours" : "other");
    EXPECT_EQ(counts["vocab_size"], tokenizer.vocab_size());
    EXPECT_EQ(counts["tokens"], tokens);
    EXPECT_EQ(counts["bytes_per_token"], double(2 * text.size() + 8) / double(tokens));
    EXPECT_EQ(counts["tokens_per_character"], double(tokens) / double(2 * (text.size() - 4) + 8));
  }
  EXPECT_EQ(report["all"]["bytes"], 2 * text.size() + 8 + 3);
  const Finished table = compare({});
  EXPECT_EQ(table.out.find("bytes per token\n"), 0u) << table.out;
  EXPECT_NE(table.out.find("other (512)\na "), table.out.npos) << table.out;
  EXPECT_EQ(compare({"nowhere.txt"}).exit, 3);
}

#endif

}  // namespace
}  // namespace fulgur::tests

// label: slow
// The whole of `data prepare` on small corpora: every rule is provoked, and the bytes depend neither on threads nor on
// where it was killed.
#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "data/token_shards.h"
#include "files/json_file.h"
#include "tests/made_words.h"
#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;
using Json = nlohmann::ordered_json;

constexpr const char* kSeparator = "\n<|endoftext|>\n";

std::string prose(uint64_t number, int64_t count = 90) {
  return words(number, count) + "end " + std::to_string(number) + ".";
}

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::string utf16(const std::string& ascii) {
  std::string out = "\xFF\xFE";
  for (const char c : ascii) out += c, out += '\0';
  return out;
}

std::string chinese(uint64_t number, int64_t characters = 160) {
  std::string text;
  for (int64_t i = 0; i < characters; ++i) {
    const uint32_t c = 0x4E00 + philox(5, uint64_t(i), number)[0] % 3000;
    text += {char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 0x3F)), char(0x80 | (c & 0x3F))};
    if (i % 20 == 19) text += "\xE3\x80\x82";
  }
  return text;
}

// Each document that one rule has to drop, by the rule.
std::vector<std::pair<std::string, std::string>> offenders() {
  std::string ellipses, bullets, bits, paragraphs;
  for (uint64_t i = 0; i < 12; ++i) {
    ellipses += words(500 + i, 12) + "...\n", bullets += "- " + words(600 + i, 9) + "\n";
    bits += std::string(1, char(i % 8)) + words(700 + i, 3);
  }
  std::string numbers, symbols, signs, long_words, german;
  for (uint64_t i = 0; i < 90; ++i) {
    numbers += i % 3 ? std::to_string(7919 * (i + 3)) + " " : "the ";
    symbols += "the<{~}>^ ";
    signs += words(800 + i, 5) + " # ";
    long_words += i % 4 ? "incomprehensibilities" + std::to_string(i) + " " : "the ";
    german += Words{"der", "Hund", "lief", "durch", "dunklen", "Wald", "und", "suchte"}[philox(3, i, 0)[0] % 8] + " ";
  }
  for (uint64_t i = 0; i < 5; ++i) paragraphs += prose(900 + i, 100) + "\n\nThe teacher opened a window.\n\n";
  const std::string said = words(940, 60, ' ');
  return {{"binary", bits},
          {"encoding", repeated("\xB2\xE2\xCA\xD4\xCE\xC4\xB1\xBE", 30)},
          {"short", "Too short to be of use."},
          {"long", prose(40, 900)},
          {"word length", long_words},
          {"alphabetic", numbers},
          {"symbols", symbols},
          {"symbol words", signs},
          {"ellipses", ellipses},
          {"bullets", bullets},
          {"repeated lines", prose(50, 30) + "\n" + repeated("Sign up for our letter today.\n", 8)},
          {"repeated paragraphs", paragraphs},
          {"frequent n-gram", words(60, 60) + repeated(" buy gold", 40)},
          {"repeated n-grams", said + words(950, 40, ' ') + said},
          {"language", german},
          {"too large", prose(70, 4000)},
          {"exact duplicate", prose(1) + "\n"},
          {"near duplicate", prose(2) + " And one more."},
          {"evaluation text", "It was said that " + prose(9000) + " and so on."}};
}

// Every file that the result consists of.
std::map<std::string, std::string> results_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = fs::relative(entry.path(), folder);
    if (entry.is_regular_file() && !name.starts_with("report.")) files[name] = slurp(entry.path());
  }
  return files;
}

class DataPrepare : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);  // flushes are answered at once
  }
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the program is not built";
    fs::current_path(FULGUR_SOURCE);
    fs::create_directories(scratch_ / "raw");
    write_corpus();
  }
  void write_corpus() const {
    std::string text, lines, packed;
    for (uint64_t i = 0; i < 12; ++i) text += prose(i) + kSeparator;
    for (const auto& [rule, document] : offenders()) text += document + kSeparator;
    spill(scratch_ / "raw/a.txt", text);
    spill(scratch_ / "raw/b.txt", "\xEF\xBB\xBF" + prose(20) + "\r\n" + kSeparator + prose(21) + " caf\xE9 na\xEFve" +
                                      kSeparator + utf16(prose(22)) + kSeparator + "\xA9" + prose(23) + " \xE4\xB8" +
                                      kSeparator);
    for (uint64_t i = 0; i < 8; ++i) lines += Json{{"text", chinese(i)}, {"id", i}}.dump() + "\n\n";
    spill(scratch_ / "raw/c.jsonl", lines);
    for (uint64_t i = 30; i < 36; ++i) packed += Json{{"text", prose(i)}}.dump() + "\n";
    std::string compressed(ZSTD_compressBound(packed.size()), '\0');
    compressed.resize(ZSTD_compress(compressed.data(), compressed.size(), packed.data(), packed.size(), 3));
    spill(scratch_ / "raw/d.jsonl.zst", compressed);
    spill(scratch_ / "raw/evaluation.txt", prose(9000));
    spill(scratch_ / "prepare.toml", configuration());
  }
  std::string configuration() const {
    const std::string raw = (scratch_ / "raw").string();
    return "[prepare]\ntokenizer = \"data/tiny/tokenizer\"\nunit_bytes = 4000\nshard_tokens = 2500\nthreads = 1\n"
           "[source.en]\nweight = 0.7\nfiles = [\"" +
           raw + "/[ab].txt\", \"" + raw +
           "/d.jsonl.zst\"]\n"
           "[source.zh]\nweight = 0.3\nfiles = [\"" +
           raw +
           "/c.jsonl\"]\n"
           "[clean]\nlanguages = [\"en\", \"zh\"]\nmax_words = 800\nmax_bytes = 20000\n"
           "[decontaminate]\nfiles = [\"" +
           raw + "/evaluation.txt\"]\n";
  }
  Words arguments(const fs::path& out, const Words& settings, const std::string& fault) const {
    Words all{"/usr/bin/env"};
    if (!fault.empty()) all.push_back("FULGUR_FAULT=" + fault);
    all.insert(all.end(), {program(), "data", "prepare", (scratch_ / "prepare.toml").string(), "--set",
                           "prepare.out=" + out.string()});
    for (const std::string& setting : settings) all.insert(all.end(), {"--set", setting});
    return all;
  }
  Finished run(const fs::path& out, const Words& settings = {}, const std::string& fault = "") const {
    return Child(arguments(out, settings, fault), scratch_ / (out.filename().string() + "_output")).wait();
  }
  std::map<std::string, std::string> whole(const Words& settings = {}) const {
    const Finished finished = run(scratch_ / "whole", settings);
    EXPECT_EQ(finished.exit, 0) << finished.err;
    return results_in(scratch_ / "whole");
  }
  Json report() const { return parse_object(slurp(scratch_ / "whole/report.json"), "report"); }
  // An error is the last line.
  void expect_refused(const Finished& finished, int code, const Words& words) const {
    EXPECT_EQ(finished.exit, code) << finished.err;
    const size_t line = finished.err.find("fulgur: ");
    ASSERT_NE(line, finished.err.npos) << finished.err;
    for (const std::string& word : words) EXPECT_NE(finished.err.find(word, line), finished.err.npos) << finished.err;
  }
  const Scratch scratch_;
};

TEST_F(DataPrepare, EveryRuleDropsItsDocumentAndNoOther) {
  whole();
  std::map<std::string, std::vector<std::string>> dropped;
  const Json told = report();
  for (const Json& stage : told.at("stages")) {
    int64_t documents = 0;
    for (const Json& rule : stage.at("dropped")) {
      documents += rule.at("documents").get<int64_t>();
      for (const Json& sample : rule.at("samples")) dropped[rule.at("rule")].push_back(sample.at("origin"));
    }
    EXPECT_EQ(stage.at("documents_in").get<int64_t>() - documents, stage.at("documents_out").get<int64_t>()) << stage;
  }
  int64_t number = 12;
  const std::string file = (scratch_ / "raw/a.txt").string() + ":";
  for (const auto& [rule, text] : offenders()) EXPECT_EQ(dropped[rule], Words{file + std::to_string(number++)}) << rule;
  EXPECT_EQ(dropped.size(), offenders().size());
}

TEST_F(DataPrepare, WhatStaysIsRepairedAndKnowsItsOrigin) {
  whole();
  const TokenShards shards = TokenShards::open(scratch_ / "whole");
  shards.check();
  EXPECT_EQ(shards.source("en").documents(), 12 + 4 + 6);
  EXPECT_EQ(shards.source("zh").documents(), 8);
  EXPECT_EQ(shards.source("en").weight(), 0.7);
  const Finished dump = run_program({"data", "inspect", (scratch_ / "whole").string(), "--json"}, scratch_ / "dump");
  ASSERT_EQ(dump.exit, 0) << dump.err;
  std::vector<std::string> texts;
  std::istringstream lines(dump.out);
  for (std::string line; std::getline(lines, line);) texts.push_back(Json::parse(line).at("text"));
  ASSERT_EQ(texts.size(), 30u);
  EXPECT_EQ(texts[3], prose(3));
  EXPECT_EQ(texts[12], prose(20));
  EXPECT_EQ(texts[13], prose(21) + " caf\xC3\xA9 na\xC3\xAFve");
  EXPECT_EQ(texts[14], prose(22));
  EXPECT_EQ(texts[15], prose(23));
  EXPECT_EQ(texts[16], prose(30));
  EXPECT_EQ(texts[22], chinese(0));
  EXPECT_EQ(shards.source("en").origin(15), (std::array<int64_t, 2>{1, 3}));
  EXPECT_EQ(report().at("languages").size(), 2u);
}

TEST_F(DataPrepare, DocumentsAndRowsAreShown) {
  whole();
  const auto inspect = [&](const Words& more) {
    Words all{"data", "inspect", (scratch_ / "whole").string()};
    all.insert(all.end(), more.begin(), more.end());
    return run_program(all, scratch_ / "inspect");
  };
  EXPECT_NE(inspect({"--check"}).out.find("every digest, count and token is as it should be"), std::string::npos);
  const Finished document = inspect({"--source", "en", "--document", "15"});
  for (const std::string& want :
       {std::string("document 15 of 22\n"), (scratch_ / "raw/b.txt").string() + ", its document 3\n",
        std::string("label 0, "), prose(23) + "\n"})
    EXPECT_NE(document.out.find(want), std::string::npos) << document.out;
  const Finished row = inspect({"--source", "zh", "--row", "1", "--sequence", "700"});
  EXPECT_NE(row.out.find("row 1 of source zh, 700 tokens a row"), std::string::npos) << row.out;
  EXPECT_NE(row.out.find("from within a document"), std::string::npos) << row.out;
  EXPECT_NE(row.out.find("from a document's begin"), std::string::npos) << row.out;
  expect_refused(inspect({"--document", "0"}), 2, {"--source", "2"});
  expect_refused(inspect({"--source", "fr", "--document", "0"}), 2, {"`fr`", "en, zh"});
  expect_refused(inspect({"--source", "en", "--document", "22"}), 2, {"22 documents"});
  expect_refused(inspect({"--source", "en", "--document", "0", "--tokenizer", golden_folder("none").string()}), 3,
                 {"--tokenizer"});
  const fs::path shard = scratch_ / "whole/zh-00000.safetensors";
  std::string bytes = slurp(shard);
  bytes.back() = char(bytes.back() ^ 1);
  spill(shard, bytes);
  expect_refused(inspect({"--check"}), 3, {"zh-00000", "digest"});
}

TEST_F(DataPrepare, RowsOfARunAreThoseOfItsSources) {
  whole();
  const std::string folder = (scratch_ / "whole").string(), config = FULGUR_SOURCE "/configs/tiny.toml";
  const auto inspect = [&](Words words) {
    words.insert(words.begin(), {"data", "inspect"});
    return run_program(words, scratch_ / "inspect");
  };
  const auto pieces = [](const std::string& out) { return out.substr(out.find('\n')); };
  std::map<std::string, int> next{{"en", 0}, {"zh", 0}};
  for (int row = 0; row < 6; ++row) {
    const Finished shown = inspect({config, "--row", std::to_string(row), "--set", "data.train=[\"" + folder + "\"]",
                                    "--set", "data.weights={en=2, zh=1}", "--set", "train.seed=3"});
    ASSERT_EQ(shown.exit, 0) << shown.err;
    const std::string source = shown.out.find("of source en") != std::string::npos ? "en" : "zh";
    const std::string number = std::to_string(next[source]++);
    EXPECT_NE(shown.out.find("seed 3: row " + number + " of source " + source + ", "), std::string::npos) << shown.out;
    const Finished alone = inspect({folder, "--source", source, "--row", number, "--sequence", "256", "--seed", "3"});
    EXPECT_EQ(pieces(shown.out), pieces(alone.out));
  }
  EXPECT_EQ(next["en"], 4);
  expect_refused(inspect({config, "--row", "0", "--source", "en"}), 2, {"tiny.toml", "--row, --set"});
  expect_refused(inspect({config, "--row", "320", "--set", "data.train=[\"" + folder + "\"]"}), 2, {"320 rows"});
  expect_refused(inspect({folder, "--row", "0", "--set", "train.seed=3"}), 2, {"--set"});
}

TEST_F(DataPrepare, ThreadsChangeNoByte) {
  const auto files = whole();
  EXPECT_GT(files.size(), 4u) << "several shards";
  for (const char* threads : {"2", "3"}) {
    const fs::path out = scratch_ / (std::string("threads") + threads);
    EXPECT_EQ(run(out, {std::string("prepare.threads=") + threads}).exit, 0);
    EXPECT_TRUE(results_in(out) == files) << threads;
  }
}

TEST_F(DataPrepare, KilledAtEveryWriteItEndsInTheSameBytes) {
  const Words larger{"prepare.unit_bytes=30000"};  // fewer writes
  const auto files = whole(larger);
  int64_t n = 1;
  for (;; ++n) {
    const fs::path out = scratch_ / "killed";
    fs::remove_all(out);
    const Finished killed = run(out, larger, std::to_string(n) + ":kill");
    if (killed.exit == 0) break;
    ASSERT_EQ(killed.signal, SIGKILL) << killed.err;
    const Finished finished = run(out, larger);
    ASSERT_EQ(finished.exit, 0) << n << ": " << finished.err;
    ASSERT_TRUE(results_in(out) == files) << n;
  }
  EXPECT_GT(n, 50);
}

TEST_F(DataPrepare, AFailedWriteIsNamedAndNothingIsLost) {
  const auto files = whole();
  for (const int64_t n : {1, 3, 8, 21, 55, 90}) {
    const fs::path out = scratch_ / "failed";
    fs::remove_all(out);
    expect_refused(run(out, {}, std::to_string(n) + ":ENOSPC"), 3, {out.string(), "No space left"});
    EXPECT_EQ(run(out).exit, 0);
    EXPECT_TRUE(results_in(out) == files) << n;
  }
}

TEST_F(DataPrepare, AChangedConfigurationRedoesWhatItTouches) {
  const Words changed{"clean.min_words=95", "duplicates.near=false"};
  const auto files = whole(changed);
  const fs::path out = scratch_ / "changed";
  ASSERT_EQ(run(out, {}, "100:kill").signal, SIGKILL);
  ASSERT_EQ(run(out, changed).exit, 0);
  EXPECT_TRUE(results_in(out) == files);
  expect_refused(run(out), 2, {"clean.min_words is 50 (was 95)", "duplicates.near is true (was false)", "prepare.out"});
  EXPECT_NE(run(out, changed).out.find("complete already"), std::string::npos);
  spill(scratch_ / "raw/evaluation.txt", prose(9001));
  expect_refused(run(out, changed), 2, {"digests of decontaminate.files"});
  spill(scratch_ / "raw/evaluation.txt", prose(9000));
  spill(scratch_ / "raw/b.txt", prose(77));
  expect_refused(run(out, changed), 2, {"other inputs", "b.txt"});
}

TEST_F(DataPrepare, InputsThatChangeAfterAnInterruptionAreReadAnew) {
  const fs::path out = scratch_ / "out";
  ASSERT_EQ(run(out, {}, "100:kill").signal, SIGKILL);
  spill(scratch_ / "raw/a.txt", prose(200) + kSeparator + slurp(scratch_ / "raw/a.txt"));
  ASSERT_EQ(run(out).exit, 0);
  EXPECT_TRUE(results_in(out) == whole());
}

// The scores are those of a model that was trained for three steps.
TEST_F(DataPrepare, LabelsAreThresholdsOfScoresAndSampledAlikeEverywhere) {
  Words train{program(), "train", "configs/tiny.toml"};
  for (const char* setting : {"model.hidden_size=32", "model.num_hidden_layers=2", "model.attn_type_list=[0, 1]",
                              "model.num_attention_heads=2", "model.num_key_value_heads=1",
                              "model.intermediate_size=32", "model.num_local_experts=2", "train.sequence=64",
                              "train.tokens_per_step=128", "train.steps=3", "train.warmup=1"})
    train.insert(train.end(), {"--set", setting});
  train.insert(train.end(), {"--set", "run.dir=" + (scratch_ / "run").string()});
  ASSERT_EQ(Child(train, scratch_ / "train").wait().exit, 0);
  Words labels{"quality.model=" + (scratch_ / "run/model").string(), "quality.bytes=100", "prepare.keep_work=true"};
  whole(labels);
  const Safetensors scores = Safetensors::open(scratch_ / "whole/work/scores/0000000.safetensors");
  double first = 0;
  std::memcpy(&first, scores.at("values").bytes.data(), sizeof first);
  labels.insert(labels.end(), {"quality.thresholds=[" + std::to_string(first) + "]", "quality.keep=[0.5, 1.0]"});
  fs::remove_all(scratch_ / "whole");
  const auto files = whole(labels);
  const Json told = report();
  ASSERT_EQ(told.at("labels").size(), 2u) << told;
  const Json& stage = told.at("stages")[4];
  EXPECT_EQ(stage.at("name"), "quality labels");
  ASSERT_EQ(stage.at("dropped").size(), 1u) << "about half of label 1 alone";
  EXPECT_EQ(stage.at("dropped")[0].at("rule"), "label 1");
  const auto results = [](std::map<std::string, std::string> all) {
    std::erase_if(all, [](const auto& file) { return file.first.starts_with("work/"); });
    return all;
  };
  labels.push_back("prepare.threads=3");
  for (const char* fault : {"", "150:kill"}) {
    const fs::path out = scratch_ / (std::string("labels") + fault);
    run(out, labels, fault);
    EXPECT_EQ(run(out, labels).exit, 0);
    EXPECT_TRUE(results(results_in(out)) == results(files)) << fault;
  }
}

TEST_F(DataPrepare, WhatIsWrongIsNamed) {
  const fs::path out = scratch_ / "wrong";
  const std::string raw = (scratch_ / "raw").string();
  expect_refused(run(out, {"clean.min_wrods=3"}), 2, {"clean.min_wrods", "clean.min_words"});
  expect_refused(run(out, {"clean.min_words=-3"}), 2, {"clean.min_words = -3", "from 0"});
  expect_refused(run(out, {"clean.languages=[\"xx\"]"}), 2, {"`xx`", "zh"});
  expect_refused(run(out, {"source.en.files=[\"" + raw + "/none*.txt\"]"}), 3, {"source.en.files", "none*.txt"});
  expect_refused(run(out, {"source.en.files=[\"" + raw + "\"]"}), 3, {"source.en.files", "no file"});
  expect_refused(run(out, {"source.en.weight=0"}), 2, {"source.en.weight"});
  expect_refused(run(out, {"quality.keep=[0.5, 0.5]"}), 2, {"quality.keep", "expected 1"});
  expect_refused(run(out, {"quality.keep=[0.5]"}), 2, {"quality.model"});
  expect_refused(run(out, {"prepare.tokenizer=nowhere"}), 3, {"nowhere"});
  expect_refused(run(scratch_ / "raw"), 2, {"prepare.out", "prepare.json"});
  expect_refused(run(out, {"clean.min_words=5000"}), 2, {"no document was kept", "report.json"});
  fs::remove_all(out);
  spill(scratch_ / "raw/c.jsonl", "{\"text\": \"" + prose(3, 60).substr(0, 200) + "\"}\n{\"text\": 3}\n");
  expect_refused(run(out), 3, {"c.jsonl:"});
  spill(scratch_ / "raw/c.jsonl", "\n[1]\n");
  expect_refused(run(out), 3, {"c.jsonl:2", "object"});
  spill(scratch_ / "raw/d.jsonl.zst", slurp(scratch_ / "raw/d.jsonl.zst").substr(0, 100));
  expect_refused(run(out), 3, {"d.jsonl.zst", "compressed"});
  EXPECT_FALSE(fs::exists(out / "index.json"));
}

}  // namespace
}  // namespace fulgur::tests

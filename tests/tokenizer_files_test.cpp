// Tokenizer files: what is read and written, what is refused with file and field, and the commands' outputs.
#include <nlohmann/json.hpp>
#include <random>

#include "tests/scratch.h"
#include "text/bpe_train.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

namespace fulgur::tests {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr const char* kText = "the cat and the hat and the bat sat; that is that, they said. Caf\u00e9 na\u00efve.\n";

Vocabulary trained_vocabulary() {
  BpeTrainer trainer(280);
  const std::string text = kText;
  trainer.add({&text, 1});
  return trainer.train([](int64_t, int64_t) {});
}

class TokenizerFile : public testing::Test {
 protected:
  TokenizerFile() : json_(Json::parse(to_tokenizer_json(trained_vocabulary()))) {}

  std::filesystem::path file() const { return scratch_ / "tokenizer.json"; }
  Tokenizer load() const {
    spill(file(), json_.dump());
    return Tokenizer::load(scratch_.path());
  }
  void expect_refused(ErrorKind kind, const std::vector<std::string>& words) const {
    std::vector<std::string> all = words;
    all.push_back(file().string());
    expect_error(kind, all, [&] { load(); });
  }

  Scratch scratch_;
  Json json_;
};

TEST_F(TokenizerFile, what_is_written_is_read_back) {
  EXPECT_EQ(load().digest(), Tokenizer(trained_vocabulary()).digest());
}

TEST_F(TokenizerFile, merges_may_be_pairs) {
  for (Json& merge : json_["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    const size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  EXPECT_EQ(load().digest(), Tokenizer(trained_vocabulary()).digest());
}

TEST_F(TokenizerFile, gpt2_files) {
  spill(scratch_ / "vocab.json", json_["model"]["vocab"].dump());
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : json_["model"]["merges"]) merges += merge.get<std::string>() + "\n";
  expect_error(ErrorKind::not_found, {"merges.txt"}, [&] { Tokenizer::load(scratch_.path()); });
  spill(scratch_ / "merges.txt", merges);
  const Tokenizer gpt2 = Tokenizer::load(scratch_.path());
  Vocabulary same = trained_vocabulary();
  same.pre_tokenizer = {SplitRule::gpt2};
  same.normalisation = Normalisation::none;
  same.added.clear();
  same.tokens.resize(276);
  EXPECT_EQ(gpt2.digest(), Tokenizer(same).digest());
  spill(scratch_ / "merges.txt", merges + "only\n");
  expect_error(ErrorKind::corrupt_file, {"merges.txt", "merge 20", "space"}, [&] { Tokenizer::load(scratch_.path()); });
}

TEST_F(TokenizerFile, any_pattern) {
  json_["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+| ";
  json_["model"]["merges"] = Json::array();
  const std::string text = "the Cat";
  EXPECT_EQ(load().decode(load().encode(text, SpecialTokens::as_text)), text);
  json_["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
  json_["pre_tokenizer"]["pretokenizers"][0]["invert"] = true;
  EXPECT_EQ(load().decode(load().encode(text, SpecialTokens::as_text)), "the at");
}

TEST_F(TokenizerFile, missing) {
  expect_error(ErrorKind::not_found, {"tokenizer.json", "vocab.json"}, [&] { Tokenizer::load(scratch_.path()); });
  expect_error(ErrorKind::not_found, {"nowhere"}, [&] { Tokenizer::load(scratch_ / "nowhere"); });
}

TEST_F(TokenizerFile, damaged) {
  const Json whole = json_;
  const auto with = [&](const char* pointer, const Json& value, const std::vector<std::string>& words) {
    json_ = whole;
    json_[Json::json_pointer(pointer)] = value;
    expect_refused(ErrorKind::corrupt_file, words);
  };
  with("/model", 1, {"model", "object"});
  with("/model/vocab", Json::array(), {"vocab", "object"});
  with("/model/vocab/zzz", "1", {"model.vocab", "zzz", "integer"});
  with("/model/vocab/zzz", -1, {"zzz", "id"});
  with("/model/vocab/zzz", 5'000'000'000, {"zzz", "id"});
  with("/model/vocab/zzz", 97, {"zzz", "id of its own"});
  with("/model/merges", 3, {"model.merges", "list"});
  with("/model/merges/2", 3, {"model.merges", "2"});
  with("/model/merges/2", "a b c", {"merge 2", "space"});
  with("/model/merges/2", "a zq", {"merge 2", "zq"});
  with("/model/byte_fallback", "no", {"byte_fallback", "true or false"});
  with("/added_tokens/0", 3, {"added_tokens"});
  with("/added_tokens/0/id", -3, {"beginning_of_sentence", "id"});
  with("/added_tokens/0/content", "", {"text"});
  with("/pre_tokenizer/pretokenizers", 3, {"pretokenizers", "list"});
  spill(file(), "{\"model\": ");
  expect_error(ErrorKind::corrupt_file, {file().string(), "JSON"}, [&] { Tokenizer::load(file()); });
  spill(file(), std::string("{}\0{}", 5));
  expect_error(ErrorKind::corrupt_file, {file().string(), "zero byte"}, [&] { Tokenizer::load(file()); });
  spill(file(), "[]");
  expect_error(ErrorKind::corrupt_file, {file().string(), "object"}, [&] { Tokenizer::load(file()); });
}

TEST_F(TokenizerFile, not_handled) {
  const Json whole = json_;
  const auto with = [&](const char* pointer, const Json& value, const std::vector<std::string>& words) {
    json_ = whole;
    json_[Json::json_pointer(pointer)] = value;
    expect_refused(ErrorKind::unsupported, words);
  };
  with("/normalizer", {{"type", "Lowercase"}}, {"normalizer", "Lowercase"});
  with("/model/type", "Unigram", {"Unigram", "BPE"});
  with("/model/byte_fallback", true, {"byte_fallback"});
  with("/model/unk_token", "<unk>", {"unk_token"});
  with("/model/continuing_subword_prefix", "##", {"continuing_subword_prefix"});
  with("/model/dropout", 0.1, {"dropout"});
  with("/pre_tokenizer", nullptr, {"pre_tokenizer"});
  with("/pre_tokenizer/pretokenizers/0/type", "Whitespace", {"Whitespace"});
  with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\n(", {"pattern", "\\n(", "ICU"});
  with("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, {"pattern"});
  with("/pre_tokenizer/pretokenizers/0/invert", true, {"Isolated and invert"});
  with("/pre_tokenizer/pretokenizers/0/behavior", "Contiguous", {"Contiguous"});
  with("/pre_tokenizer/pretokenizers/1/add_prefix_space", true, {"add_prefix_space"});
  with("/added_tokens/0/lstrip", true, {"lstrip"});
  json_ = whole;
  json_["model"]["vocab"].erase("Q");
  expect_error(ErrorKind::unsupported, {"byte 81"}, [&] { load(); });
}

TEST_F(TokenizerFile, no_damaged_byte_ends_the_process) {
  const std::string text = json_.dump();
  std::mt19937 random(4);
  for (int round = 0; round < 1000; ++round) {
    std::string damaged = text;
    for (unsigned i = 1 + random() % 3; i > 0; --i) damaged[random() % damaged.size()] = char(random());
    if (round % 3 == 0) damaged.resize(random() % damaged.size());
    spill(file(), damaged);
    try {
      const Tokenizer tokenizer = Tokenizer::load(file());
      tokenizer.decode(tokenizer.encode(kText, SpecialTokens::as_ids));
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::corrupt_file || error.kind() == ErrorKind::unsupported) << error.what();
    }
  }
}

#ifdef FULGUR_PROGRAM

Finished fulgur(const Scratch& scratch, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), FULGUR_PROGRAM);
  return Child(arguments, scratch / "output").wait();
}

TEST_F(TokenizerFile, commands) {
  const std::string model = scratch_.path().string();
  const Tokenizer tokenizer = load();
  const std::string text = "[that, \u00e9] <pad>";
  for (const auto special : {SpecialTokens::as_text, SpecialTokens::as_ids}) {
    std::vector<std::string> arguments{"tokenize", model, "--json", "--text", text};
    if (special == SpecialTokens::as_ids) arguments.push_back("--special");
    const Finished told = fulgur(scratch_, arguments);
    EXPECT_EQ(told.exit, 0) << told.err;
    const Ids ids = tokenizer.encode(text, special);
    EXPECT_EQ(Json::parse(told.out), (Json{{"ids", ids}, {"count", ids.size()}}));
  }
  EXPECT_EQ(fulgur(scratch_, {"tokenize", model, "--text", "Q<"}).out, "81,60\n");
  EXPECT_EQ(fulgur(scratch_, {"tokenize", model, "--text", ""}).out, "\n");
  spill(scratch_ / "text", "Q\xFF");
  EXPECT_EQ(fulgur(scratch_, {"tokenize", model, "--file", scratch_ / "text"}).out, "81,239,191,189\n");
  const std::string lines = "Q\n\nthe <pad>\n<";
  spill(scratch_ / "text", lines);
  const std::string the = fulgur(scratch_, {"tokenize", model, "--text", "the <pad>"}).out;
  EXPECT_EQ(fulgur(scratch_, {"tokenize", model, "--lines", "--text", lines}).out, "81\n\n" + the + "60\n");
  EXPECT_EQ(fulgur(scratch_, {"tokenize", model, "--lines", "--text", "Q\n"}).out, "81\n");
  const Json listed =
      Json::parse(fulgur(scratch_, {"tokenize", model, "--lines", "--json", "--file", scratch_ / "text"}).out);
  EXPECT_EQ(listed["ids"].size(), 4u);
  EXPECT_EQ(listed["ids"][1], Json::array());
  EXPECT_EQ(listed["ids"][3], (Json{60}));
  EXPECT_EQ(listed["count"], listed["ids"][2].size() + 2);
  EXPECT_EQ(Json::parse(fulgur(scratch_, {"tokenize", model, "--lines", "--json", "--text", ""}).out)["ids"],
            Json::array());
  EXPECT_EQ(fulgur(scratch_, {"detokenize", model, "--ids", "81, 60"}).out, "Q<\n");
  EXPECT_EQ(fulgur(scratch_, {"detokenize", model, "--ids", "[195,169,195]", "--json"}).out,
            "{\"text\":\"\u00e9\uFFFD\"}\n");
}

// Longer than one part that is read, with characters and words where the parts are cut.
TEST_F(TokenizerFile, a_long_file_has_the_ids_of_its_text) {
  const Tokenizer tokenizer = load();
  std::string text;
  while (text.size() < 2'500'000)
    text += "the cat\u00e9 sat;\n that\n\n" + std::to_string(text.size()) + " \u4f60\u597d\u3000";
  spill(scratch_ / "text", text);
  const std::string model = scratch_.path().string();
  const Json told = Json::parse(fulgur(scratch_, {"tokenize", model, "--json", "--file", scratch_ / "text"}).out);
  EXPECT_EQ(told["ids"].get<Ids>(), tokenizer.encode(text, SpecialTokens::as_text));
}

TEST_F(TokenizerFile, commands_refuse) {
  const std::string model = scratch_.path().string();
  load();
  const auto expect_exit = [&](int exit, const std::string& word, const std::vector<std::string>& arguments) {
    const Finished told = fulgur(scratch_, arguments);
    EXPECT_EQ(told.exit, exit) << told.err;
    EXPECT_EQ(told.out, "");
    EXPECT_NE(told.err.find(word), told.err.npos) << told.err;
    EXPECT_EQ(told.err.find('\n'), told.err.size() - 1) << told.err;
  };
  expect_exit(2, "--file", {"tokenize", model, "--text", "a", "--file", "b"});
  expect_exit(2, "--text", {"tokenize", model});
  expect_exit(3, "nowhere", {"tokenize", model, "--file", scratch_ / "nowhere"});
  expect_exit(3, "nowhere", {"tokenize", scratch_ / "nowhere", "--text", "a"});
  expect_exit(3, "cannot be read", {"tokenize", model, "--file", model});
  expect_exit(2, "280", {"detokenize", model, "--ids", "280"});
  for (const char* ids : {"-1", "1,,2", "1;2", "a", "1.5", "99999999999", "[[1]]"}) {
    expect_exit(2, "--ids", {"detokenize", model, "--ids", ids});
  }
}

#endif

}  // namespace
}  // namespace fulgur::tests

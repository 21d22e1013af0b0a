// label: slow
// Damaged models end the program with the exit code of the contract and one line on standard error, never by a signal.
#include <algorithm>

#include "base/random.h"
#include "tests/scratch.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using tests::Child;
using tests::Finished;
using tests::replaced;
using tests::slurp;
using tests::spill;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kDraws = 200;  // each run takes ten times as long
#else
constexpr uint64_t kDraws = 2000;
#endif

struct Both {
  Finished inspect, logits;
};

class Damage : public ::testing::Test {
 protected:
  void SetUp() override {
    if (tests::program().empty()) GTEST_SKIP() << "the program is not built";
    restore();
    std::tie(header_, data_) = tests::split_safetensors(slurp(weights_));
  }

  void restore() {
    fs::remove_all(model_);
    tests::copy_model(tests::golden_folder("text01_tiny"), model_);
  }

  // Both commands at once.
  Both run() {
    Child inspect({tests::program(), "inspect", model_.string(), "--json"}, scratch_ / "inspect");
    Child logits({tests::program(), "logits", model_.string(), "--ids", "1,2,3", "--threads", "1", "--out",
                  (scratch_ / "out.safetensors").string()},
                 scratch_ / "logits");
    return {inspect.wait(), logits.wait()};
  }

  void expect_exits(int inspect, int logits, const std::string& word = "") {
    const Both both = run();
    tests::expect_exit(both.inspect, inspect);
    tests::expect_exit(both.logits, logits);
    EXPECT_NE(both.logits.err.find(word), std::string::npos) << word << " in: " << both.logits.err;
  }

  void with_header(const std::string& header, const std::string& data, int inspect, const std::string& word) {
    restore();
    spill(weights_, tests::raw_safetensors(header, data));
    expect_exits(inspect, 3, word);
  }

  // The header after the entry's name, changed.
  std::string with_entry(const std::string& name, const std::string& what, const std::string& with) const {
    const size_t at = header_.find("\"" + name + "\"");
    return header_.substr(0, at) + replaced(header_.substr(at), what, with);
  }

  void with_config(const std::string& what, const std::string& with, int inspect, int logits, const std::string& word) {
    restore();
    spill(config_, replaced(slurp(config_), what, with));
    expect_exits(inspect, logits, word);
  }

  tests::Scratch scratch_;
  const fs::path model_ = scratch_ / "model", weights_ = model_ / "model.safetensors", config_ = model_ / "config.json";
  const std::string norm_ = "model.layers.1.input_layernorm.weight";
  std::string header_, data_;
};

TEST_F(Damage, SoundModelsRun) { expect_exits(0, 0); }

TEST_F(Damage, ByHandInTheWeights) {
  with_header(with_entry(norm_, "[16]", "[4,4]"), data_, 0, norm_);
  with_header(with_entry(norm_, "[16]", "[17]"), data_, 3, norm_);
  with_header(with_entry(norm_, "\"F32\"", "\"I32\""), data_, 0, norm_);
  with_header(with_entry(norm_, "\"F32\"", "\"BOOL\""), data_, 3, norm_);
  with_header(replaced(header_, norm_, "model.layers.1.self_attn.slope_rate"), data_, 0, norm_);
  with_header(replaced(header_, norm_, "model.layers.7.input_layernorm.weight"), data_, 0, "model.layers.7.input");
  with_header(replaced(header_, "[3904,7808]", "[0,3904]"), data_, 3, "overlaps");
  with_header(replaced(header_, "[3904,7808]", "[3904,1e3]"), data_, 3, "model.embed_tokens.weight");
  with_header(header_, data_.substr(1), 3, "do not exist");
  with_header(header_, data_ + "x", 3, "1 bytes after");
  with_header(header_.substr(0, 500), data_, 3, "JSON");
  with_header(header_, "", 3, "do not exist");
  std::string extra = header_;
  extra.insert(extra.rfind('}'), ",\"extra\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" +
                                     std::to_string(data_.size()) + "," + std::to_string(data_.size() + 1) + "]}");
  with_header(extra, data_ + "x", 0, "\"extra\"");
}

TEST_F(Damage, ByHandInTheFiles) {
  spill(weights_, "");
  expect_exits(3, 3, "model.safetensors");
  spill(weights_, std::string(8, '\xff') + "{}");
  expect_exits(3, 3, "18446744073709551615");
  fs::remove(weights_);
  expect_exits(0, 3, "model.safetensors");
  fs::create_directory(weights_);
  expect_exits(3, 3, "not a regular file");
  restore();
  spill(model_ / "model.safetensors.index.json", R"({"weight_map": {"lm_head.weight": "../model/model.safetensors"}})");
  expect_exits(3, 3, "lm_head.weight");
  spill(model_ / "model.safetensors.index.json", R"({"weight_map": {"lm_head.weight": "elsewhere.safetensors"}})");
  expect_exits(0, 3, "elsewhere.safetensors");
  spill(model_ / "model.safetensors.index.json",
        "{\"weight_map\": {\"lm_head.weight\": \"" + std::string(300, 'x') + "\"}}");
  expect_exits(0, 3, "xxx");
  restore();
  fs::remove(config_);
  expect_exits(3, 3, "config.json");
  fs::remove_all(model_);
  expect_exits(3, 3, model_.string());
}

TEST_F(Damage, ByHandInTheConfiguration) {
  with_config("{", "[", 3, 3, "JSON");
  with_config("61", std::string(300000, '[') + std::string(300000, ']'), 3, 3, "nested");
  with_config("minimax_text_01", "minimax_text_02", 2, 2, "minimax_text_02");
  with_config("\"num_attention_heads\": 4", "\"num_attention_heads\": 0", 2, 2, "num_attention_heads is 0");
  with_config("\"num_attention_heads\": 4", "\"num_attention_heads\": 8", 0, 3, "expected F32 [64]");
  with_config("\"vocab_size\": 61", "\"vocab_size\": 61.5", 2, 2, "vocab_size");
  with_config("\"vocab_size\": 61", "\"vocab_size\": 2147483647", 0, 3, "61, 16");
  with_config("\"hidden_size\": 16", "\"hidden_size\": -1", 2, 2, "hidden_size is -1");
  with_config("\"num_local_experts\": 4", "\"num_local_experts\": 5000", 0, 3, "expected F32 [5000, 16]");
  with_config("\"shared_intermediate_size\": 0", "\"shared_intermediate_size\": 4", 2, 2, "shared_intermediate_size");
  with_config("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0", 2, 2, "rms_norm_eps");
  with_config("\"rope_theta\"", "\"vocab_size\"", 3, 3, "twice");
}

// One seeded damage of a text: a bit turned, a byte replaced, or the end cut off.
struct Change {
  std::string bytes;
  size_t at;
  bool cut;
};

Change changed(std::string bytes, size_t begin, size_t end, uint64_t draw) {
  const PhiloxBlock r = philox(20260101, draw, 0);
  const size_t at = begin + size_t(r[0]) % (end - begin);
  if (r[1] % 8 == 0) return {bytes.substr(0, at), at, true};
  bytes[at] = r[1] % 2 ? char(bytes[at] ^ (1 << r[2] % 8)) : char(r[2]);
  return {bytes, at, false};
}

void expect_contract(const Finished& f, const std::vector<int>& allowed) {
  tests::expect_exit(f, std::count(allowed.begin(), allowed.end(), f.exit) ? f.exit : allowed.front());
}

TEST_F(Damage, FlipsAndCuts) {
  const std::string weights = slurp(weights_), config = slurp(config_);
  const size_t data_begin = weights.size() - data_.size();
  // "__metadata__" and its words: the only part of the header that is free to change.
  const size_t free_begin = weights.find("\"__metadata__\""), free_end = weights.find('}', free_begin);
  int survived = 0;
  for (uint64_t draw = 0; draw < kDraws && !HasFailure(); ++draw) {
    const uint64_t where = draw % 4;  // header, header's first bytes and data, data, configuration
    const bool in_config = where == 3;
    const std::string& source = in_config ? config : weights;
    const size_t begin = where == 2 ? data_begin : 0, end = in_config    ? config.size()
                                                            : where == 0 ? data_begin
                                                                         : weights.size();
    const Change change = changed(source, begin, end, draw);
    spill(weights_, in_config ? weights : change.bytes);
    spill(config_, in_config ? change.bytes : config);
    SCOPED_TRACE("draw " + std::to_string(draw) + (change.cut ? ", cut at " : ", changed at ") +
                 std::to_string(change.at) + " of " + (in_config ? "config.json" : "model.safetensors"));
    const bool same = change.bytes == source;
    const Both both = run();
    const bool in_header = !in_config && change.at < data_begin;
    const bool free = change.at >= free_begin && change.at <= free_end;
    if (same || (!in_config && !in_header && change.bytes.size() == source.size())) {
      expect_contract(both.inspect, {0}), expect_contract(both.logits, {0});
    } else if (!in_config && change.bytes.size() != source.size()) {
      expect_contract(both.inspect, {3}), expect_contract(both.logits, {3});
    } else if (in_header) {
      expect_contract(both.inspect, {3, 0});  // another name is listed
      expect_contract(both.logits, free ? std::vector{3, 0} : std::vector{3});
    } else {
      expect_contract(both.inspect, {2, 3, 0}), expect_contract(both.logits, {2, 3, 0});
      if (change.bytes.size() != source.size()) expect_contract(both.logits, {3});
      survived += both.logits.exit == 0;
    }
  }
  EXPECT_LT(survived, int(kDraws / 4 * 2 / 3)) << "most damages of the configuration are noticed";
}

TEST_F(Damage, WrongUseIsTwo) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"nonsense"},
                                             {"inspect"},
                                             {"inspect", model_.string(), "--nonsense"},
                                             {"inspect", model_.string(), "--dtype", "f8"},
                                             {"convert", model_.string()}})
    tests::expect_exit(tests::run_program(arguments, scratch_ / "run"), 2);
}

}  // namespace
}  // namespace fulgur

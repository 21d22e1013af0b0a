// fulgur convert: what it does not change is kept byte for byte, and OUT appears whole or not at all.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "files/safetensors.h"
#include "model/decay_buffers.h"
#include "tests/scratch.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using tests::expect_exit;
using tests::Finished;
using tests::slurp;
using tests::spill;

class Convert : public ::testing::Test {
 protected:
  void SetUp() override {
    if (tests::program().empty()) GTEST_SKIP() << "the program is not built";
    tests::copy_model(tests::golden_folder("text01_tiny"), model_);
    std::string config = slurp(model_ / "config.json");
    config.insert(config.find('{') + 1,
                  "\n \"strange\" : {\"x\": [1e-05, 0.10000000000000001, 12345678901234567890123]},");
    spill(model_ / "config.json", config);
    spill(model_ / "tokenizer.json", "{\"any\": \"text\"}");
    spill(model_ / "LICENSE", "words");
    spill(model_ / "model-00009-of-00009.safetensors", "not part of the model");
  }

  Finished convert(const fs::path& from, const fs::path& to, std::vector<std::string> options = {}) {
    options.insert(options.begin(), {"convert", from.string(), to.string()});
    return tests::run_program(options, scratch_ / "run");
  }

  // Names, types, shapes and bytes.
  static std::map<std::string, std::string> content(const fs::path& folder) {
    std::map<std::string, std::string> result;
    const Checkpoint checkpoint = Checkpoint::open(folder);
    for (const std::string& name : checkpoint.names()) {
      const StoredTensor& t = *checkpoint.find(name);
      result[name] = t.describe() + std::string(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
    }
    return result;
  }

  tests::Scratch scratch_;
  const fs::path model_ = scratch_ / "model";
};

TEST_F(Convert, OtherShardsAndBackKeepEveryByte) {
  expect_exit(convert(model_, scratch_ / "many", {"--max-shard-bytes", "5000"}), 0);
  EXPECT_TRUE(fs::exists(scratch_ / "many/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(scratch_ / "many/model.safetensors"));
  EXPECT_GT(Checkpoint::open(scratch_ / "many").shards().size(), 10U);
  expect_exit(convert(scratch_ / "many", scratch_ / "back"), 0);
  EXPECT_FALSE(fs::exists(scratch_ / "back/model.safetensors.index.json"));
  for (const char* folder : {"many", "back"}) {
    EXPECT_EQ(content(scratch_ / folder), content(model_));
    for (const char* file : {"config.json", "tokenizer.json", "LICENSE"})
      EXPECT_EQ(slurp(scratch_ / folder / file), slurp(model_ / file)) << folder << " " << file;
    EXPECT_FALSE(fs::exists(scratch_ / folder / "model-00009-of-00009.safetensors"));
    EXPECT_FALSE(fs::exists(scratch_ / (std::string(folder) + ".tmp")));
  }
}

TEST_F(Convert, Bf16IsRoundedAndStated) {
  expect_exit(convert(model_, scratch_ / "half", {"--dtype", "bf16"}), 0);
  EXPECT_EQ(slurp(scratch_ / "half/config.json"),
            tests::replaced(slurp(model_ / "config.json"), "\"float32\"", "\"bfloat16\""));
  const Checkpoint before = Checkpoint::open(model_), after = Checkpoint::open(scratch_ / "half");
  for (const std::string& name : before.names()) {
    const StoredTensor &wide = *before.find(name), &narrow = *after.find(name);
    ASSERT_EQ(narrow.dtype, DType::bf16);
    ASSERT_EQ(narrow.shape, wide.shape);
    for (int64_t i = 0; i < wide.count(); ++i) {
      float x;
      bf16 y;
      std::memcpy(&x, wide.bytes.data() + i * 4, 4), std::memcpy(&y, narrow.bytes.data() + i * 2, 2);
      ASSERT_EQ(y.bits, bf16(x).bits) << name << " " << i;
    }
  }
  expect_exit(convert(scratch_ / "half", scratch_ / "wide", {"--dtype", "f32"}), 0);
  EXPECT_EQ(slurp(scratch_ / "wide/config.json"), slurp(model_ / "config.json"));
  EXPECT_EQ(Checkpoint::open(scratch_ / "wide").find("lm_head.weight")->dtype, DType::f32);
  expect_exit(convert(scratch_ / "wide", scratch_ / "again", {"--dtype", "bf16"}), 0);
  EXPECT_EQ(content(scratch_ / "again"), content(scratch_ / "half"));
}

TEST_F(Convert, RefusesBeforeItWrites) {
  fs::create_directory(scratch_ / "there");
  spill(scratch_ / "there/precious", "x");
  const Finished exists = convert(model_, scratch_ / "there");
  expect_exit(exists, 2);
  EXPECT_NE(exists.err.find("there"), exists.err.npos);
  EXPECT_EQ(slurp(scratch_ / "there/precious"), "x");

  expect_exit(convert(tests::golden_folder("text01_prenorm"), scratch_ / "out", {"--format", "minimax"}), 2);
  expect_exit(convert(model_, scratch_ / "out", {"--format", "gguf"}), 2);
  expect_exit(convert(model_, scratch_ / "out", {"--dtype", "int8"}), 2);
  expect_exit(convert(model_, scratch_ / "out", {"--max-shard-bytes", "0"}), 2);
  expect_exit(convert(scratch_ / "none", scratch_ / "out"), 3);
  expect_exit(convert(model_, scratch_ / "none/out"), 3);
  std::string bytes = slurp(model_ / "model.safetensors");
  bytes.pop_back();
  spill(model_ / "model.safetensors", bytes);
  const Finished damaged = convert(model_, scratch_ / "out");
  expect_exit(damaged, 3);
  EXPECT_NE(damaged.err.find("model.safetensors"), damaged.err.npos);
  EXPECT_FALSE(fs::exists(scratch_ / "out"));
  EXPECT_FALSE(fs::exists(scratch_ / "out.tmp"));
}

TEST_F(Convert, TheSameFamilyMayBeNamed) {
  expect_exit(convert(model_, scratch_ / "out", {"--format", "minimax_text_01"}), 0);
  EXPECT_EQ(content(scratch_ / "out"), content(model_));
}

class ConvertFamily : public Convert {
 protected:
  // The golden model with whole heads rotated, which needs no other order of rows.
  void rotate_whole_heads() { set_key("\"rotary_dim\": 4", "\"rotary_dim\": 8"); }
  void set_key(const std::string& was, const std::string& now) {
    spill(model_ / "config.json", tests::replaced(slurp(model_ / "config.json"), was, now));
  }
  std::vector<float> logits(const fs::path& model) {
    const std::string file = (scratch_ / "logits.safetensors").string();
    expect_exit(tests::run_program({"logits", model.string(), "--ids", "1,2,3,4,5,6,7,8,9,10", "--out", file},
                                   scratch_ / "run"),
                0);
    const Safetensors stored = Safetensors::open(file);
    const StoredTensor& t = stored.at("logits");
    std::vector<float> values(size_t(t.count()));
    std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
    return values;
  }
};

TEST_F(ConvertFamily, ThereAndBackIsEqualFileForFile) {
  rotate_whole_heads();
  const fs::path there = scratch_ / "there", back = scratch_ / "back";
  expect_exit(convert(model_, there, {"--format", "minimax"}), 0);
  const nlohmann::json config = nlohmann::json::parse(slurp(there / "config.json"));
  EXPECT_EQ(config.at("model_type"), "minimax");
  EXPECT_EQ(config.at("architectures").at(0), "MiniMaxForCausalLM");
  EXPECT_EQ(config.at("layer_types").size(), 4U);
  EXPECT_TRUE(config.contains("linear_attn_alpha_factor") && config.contains("strange"));
  EXPECT_FALSE(config.contains("attn_type_list") || config.contains("layernorm_mlp_alpha"));
  std::map<std::string, std::string> weights = content(there);
  std::erase_if(weights, [](const auto& tensor) { return is_decay_buffer(tensor.first); });
  EXPECT_EQ(weights, content(model_));
  EXPECT_EQ(logits(there), logits(model_));

  expect_exit(convert(there, back, {"--format", "minimax_text_01"}), 0);
  expect_exit(convert(model_, scratch_ / "own"), 0);  // the same tensors under the header that this program writes
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"})
    EXPECT_TRUE(slurp(back / file) == slurp(scratch_ / "own" / file)) << file;
}

// What transformers' class honours (tests/reference/minimax_transformers.py): of rope_type "default" it rotates whole
// heads whatever rotary_dim and partial_rotary_factor say, of "proportional" the part, pairing dims i and i + head_dim
// / 2.
TEST_F(ConvertFamily, PartialRotaryIsProportional) {
  const fs::path there = scratch_ / "there", back = scratch_ / "back";
  expect_exit(convert(model_, there, {"--format", "minimax"}), 0);
  const nlohmann::json config = nlohmann::json::parse(slurp(there / "config.json"));
  EXPECT_EQ(config.at("rope_parameters"),
            nlohmann::json({{"rope_type", "proportional"}, {"rope_theta", 1e8}, {"partial_rotary_factor", 0.5}}));
  EXPECT_FALSE(config.contains("rotary_dim") || config.contains("rope_theta"));

  // Heads of 8, rotary_dim 4: dims 0 1 | 2 3 turn together, 4 5 6 7 do not.
  const std::map<std::string, std::string> was = content(model_), is = content(there);
  for (const auto& [name, bytes] : was) {
    const bool turned = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
    if (!turned) {
      EXPECT_EQ(is.at(name), bytes) << name;
      continue;
    }
    const size_t head = bytes.size() % (16 * 4), row = 16 * 4;  // describe()'s text stands before the rows
    for (size_t at = head; at < bytes.size(); at += 8 * row)
      for (const auto& [from, to] :
           {std::pair<size_t, size_t>{0, 0}, {1, 1}, {2, 4}, {3, 5}, {4, 2}, {5, 3}, {6, 6}, {7, 7}})
        EXPECT_EQ(bytes.substr(at + from * row, row), is.at(name).substr(at + to * row, row)) << name << " " << from;
  }
  EXPECT_EQ(logits(there), logits(model_));  // this program puts the rows back

  expect_exit(convert(there, back, {"--format", "minimax_text_01"}), 0);
  EXPECT_EQ(content(back), was);
  EXPECT_EQ(slurp(back / "config.json"), slurp(model_ / "config.json"));
  expect_exit(convert(there, scratch_ / "copy", {"--dtype", "f32"}), 0);
  EXPECT_EQ(content(scratch_ / "copy"), is);
}

// transformers' class has another rule for decays, but takes those that lie beside the weights.
TEST_F(ConvertFamily, DecaysAreWritten) {
  tests::copy_model(tests::golden_folder("text01_heads6"), model_);  // no power of two
  const fs::path there = scratch_ / "there", back = scratch_ / "back";
  expect_exit(convert(model_, there, {"--format", "minimax", "--dtype", "bf16"}), 0);
  EXPECT_EQ(nlohmann::json::parse(slurp(there / "config.json")).at("fulgur_decays"), "minimax_text_01");
  const Checkpoint checkpoint = Checkpoint::open(there);
  const auto values = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const StoredTensor* t = checkpoint.find("model.layers.1.self_attn." + name);
    std::vector<float> read(size_t(t->count()));
    EXPECT_EQ(std::pair(t->dtype, t->shape), std::pair(DType::f32, shape));
    std::memcpy(read.data(), t->bytes.data(), t->bytes.size());
    return read;
  };
  // ALiBi's slopes of 6 heads: those of 4, then the first and third of 8. Layer 1 of 4.
  const std::vector<float> slopes = values("slope_rate", {6, 1, 1}), query = values("query_decay", {6, 256, 1});
  const std::vector<float> key = values("key_decay", {6, 256, 1}), both = values("diagonal_decay", {1, 6, 256, 256});
  for (size_t h = 0; h < 6; ++h) {
    const double s = std::pow(2.0, std::vector<double>{-2, -4, -6, -8, -1, -3}[h]) * (1 - 1 / 3.0 + 1e-5);
    EXPECT_FLOAT_EQ(slopes[h], float(s));
    EXPECT_FLOAT_EQ(query[h * 256], float(std::exp(-s)));
    EXPECT_FLOAT_EQ(query[h * 256 + 255], float(std::exp(-256 * s)));
    EXPECT_FLOAT_EQ(key[h * 256], float(std::exp(-255 * s)));
    EXPECT_EQ(key[h * 256 + 255], 1);
    EXPECT_EQ(both[h * 65536 + 7 * 256 + 8], 0);
    EXPECT_EQ(both[h * 65536 + 7 * 256 + 7], 1);
    EXPECT_FLOAT_EQ(both[h * 65536 + 9 * 256 + 7], float(std::exp(-2 * s)));
  }
  const Finished inspected = tests::run_program({"inspect", there.string(), "--json"}, scratch_ / "run");
  EXPECT_TRUE(nlohmann::json::parse(inspected.out)["tensors"]["unexpected"].empty());

  expect_exit(convert(model_, scratch_ / "f32", {"--format", "minimax"}), 0);
  EXPECT_EQ(logits(scratch_ / "f32"), logits(model_));
  expect_exit(convert(scratch_ / "f32", back, {"--format", "minimax_text_01"}), 0);
  EXPECT_EQ(content(back), content(model_));
  EXPECT_EQ(slurp(back / "config.json"), slurp(model_ / "config.json"));

  // Without the key they are transformers' own, which the released words cannot say.
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(slurp(there / "config.json"));
  config.erase("fulgur_decays");
  spill(there / "config.json", config.dump());
  const Finished refused = convert(there, scratch_ / "never", {"--format", "minimax_text_01"});
  expect_exit(refused, 2);
  EXPECT_NE(refused.err.find("num_attention_heads is 6"), refused.err.npos) << refused.err;
}

TEST_F(ConvertFamily, GradientsOfProportionalModelsHaveTheFilesRows) {
  const fs::path there = scratch_ / "there";
  expect_exit(convert(model_, there, {"--format", "minimax"}), 0);
  const auto gradients = [&](const fs::path& model) {
    const std::string file = (scratch_ / "gradients.safetensors").string();
    expect_exit(
        tests::run_program({"gradients", model.string(), "--ids", "1,2,3,4,5", "--out", file}, scratch_ / "run"), 0);
    const Safetensors stored = Safetensors::open(file);
    const StoredTensor& t = stored.at("model.layers.2.self_attn.q_proj.weight");
    return std::string(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  };
  const std::string ours = gradients(model_), theirs = gradients(there);
  const size_t row = 16 * 4;
  EXPECT_NE(ours, theirs);
  EXPECT_EQ(ours.substr(2 * row, 2 * row), theirs.substr(4 * row, 2 * row));
}

TEST_F(ConvertFamily, WithoutTheOriginalTextTheModelIsTheSame) {
  const fs::path there = scratch_ / "there", back = scratch_ / "back";
  expect_exit(convert(model_, there, {"--format", "minimax"}), 0);
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(slurp(there / "config.json"));
  config.erase("fulgur_original_config");
  spill(there / "config.json", config.dump());
  expect_exit(convert(there, back, {"--format", "minimax_text_01"}), 0);
  EXPECT_EQ(nlohmann::json::parse(slurp(back / "config.json")).at("attn_type_list").size(), 4U);
  EXPECT_EQ(logits(back), logits(model_));
}

// A changed copy is converted as it is now, not as it once was.
TEST_F(ConvertFamily, AChangedConfigurationIsNotTheOriginal) {
  rotate_whole_heads();
  const fs::path there = scratch_ / "there", back = scratch_ / "back";
  expect_exit(convert(model_, there, {"--format", "minimax"}), 0);
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(slurp(there / "config.json"));
  config["rope_parameters"]["rope_theta"] = 500.0;
  spill(there / "config.json", config.dump());
  expect_exit(convert(there, back, {"--format", "minimax_text_01"}), 0);
  EXPECT_EQ(nlohmann::json::parse(slurp(back / "config.json")).at("rope_theta"), 500.0);
}

TEST_F(ConvertFamily, RefusesByNameWhatTheOtherCannotSay) {
  const auto refused = [&](const std::string& was, const std::string& now, const std::string& key) {
    const std::string whole = slurp(model_ / "config.json");
    set_key(was, now);
    const Finished finished = convert(model_, scratch_ / "out", {"--format", "minimax"});
    expect_exit(finished, 2);
    EXPECT_NE(finished.err.find(key), finished.err.npos) << finished.err;
    spill(model_ / "config.json", whole);
  };
  refused("\"postnorm\": true", "\"postnorm\": false", "postnorm");
  refused("\"rope_theta\": 10000.0", "\"rope_theta\": 1e20", "rope_theta");  // 1e40 is beyond f32
  refused("\"hidden_act\"", "\"lightning_norm_eps\": 1e-5, \"hidden_act\"", "epsilon");
}

class Inspect : public Convert {
 protected:
  nlohmann::json inspect(const fs::path& model, const std::vector<std::string>& options = {}) {
    std::vector<std::string> all{"inspect", model.string(), "--json"};
    all.insert(all.end(), options.begin(), options.end());
    const Finished finished = tests::run_program(all, scratch_ / "run");
    expect_exit(finished, 0);
    return nlohmann::json::parse(finished.out);  // one document, nothing else
  }
};

TEST_F(Inspect, CountsTheTinyModel) {
  const nlohmann::json r = inspect(model_);
  EXPECT_EQ(r["model_type"], "minimax_text_01");
  int64_t elements = 0;
  const Checkpoint checkpoint = Checkpoint::open(model_);
  for (const std::string& name : checkpoint.names()) elements += checkpoint.find(name)->count();
  EXPECT_EQ(r["parameters"]["total"], elements);
  EXPECT_EQ(r["parameters"]["active"], elements - 4 * 2 * 3 * 16 * 12);
  EXPECT_EQ(r["layers"], nlohmann::json({{"lightning", 3}, {"softmax", 1}}));
  EXPECT_EQ(r["kv_bytes_per_token"], 1 * 2 * 2 * 8 * 4);
  EXPECT_EQ(r["state_bytes_per_sequence"], 3 * 4 * 8 * 8 * 4);
  EXPECT_EQ(r["tail_bytes_per_sequence"], 3 * 4 * 2 * 64 * 8 * 4);
  EXPECT_EQ(r["tensors"]["expected"], 79);
  EXPECT_EQ(r["tensors"]["found"], 79);
  EXPECT_TRUE(r["tensors"]["missing"].empty() && r["tensors"]["unexpected"].empty());
  const nlohmann::json half = inspect(model_, {"--dtype", "bf16"});
  EXPECT_EQ(half["kv_bytes_per_token"], 1 * 2 * 2 * 8 * 2);
  EXPECT_EQ(half["state_bytes_per_sequence"], 3 * 4 * 8 * 8 * 4);
}

TEST_F(Inspect, WorksWithoutWeightsAndListsGaps) {
  const nlohmann::json bare = inspect(model_ / "config.json");
  EXPECT_EQ(bare["tensors"]["found"], 79);  // the weights lie beside it
  fs::remove(model_ / "model.safetensors");
  const nlohmann::json none = inspect(model_ / "config.json");
  EXPECT_EQ(none["tensors"]["found"], 0);
  EXPECT_EQ(none["tensors"]["missing"].size(), 79U);
  EXPECT_EQ(none["kv_bytes_per_token"], 1 * 2 * 2 * 8 * 4);  // by the configuration's torch_dtype

  spill(model_ / "model.safetensors.index.json",
        R"({"weight_map": {"lm_head.weight": "model-1.safetensors", "odd": "model-1.safetensors"}})");
  const nlohmann::json index = inspect(model_);
  EXPECT_EQ(index["tensors"]["found"], 1);
  EXPECT_EQ(index["tensors"]["missing"].size(), 78U);
  EXPECT_EQ(index["tensors"]["unexpected"], nlohmann::json({"odd"}));
}

TEST_F(Inspect, TheTextNamesWhatIsMissing) {
  std::string bytes = slurp(model_ / "model.safetensors");
  spill(model_ / "model.safetensors", tests::replaced(bytes, "\"lm_head.weight\"", "\"lm_hEAd.weight\""));
  const Finished text = tests::run_program({"inspect", model_.string()}, scratch_ / "run");
  expect_exit(text, 0);
  for (const char* part :
       {"78 of 79", "1 missing", "\"lm_head.weight\"", "1 unexpected", "\"lm_hEAd.weight\"", "tokenizer.json"})
    EXPECT_NE(text.out.find(part), text.out.npos) << part << " in\n" << text.out;
}

}  // namespace
}  // namespace fulgur

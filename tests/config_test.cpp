// config.json of both families becomes numbers, and whatever it gets wrong is refused by key, value and expectation.
#include "model/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "files/safetensors.h"
#include "model/checkpoint.h"
#include "tests/scratch.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;
using tests::expect_error;
using tests::golden_folder;

Json tiny() { return Json::parse(tests::slurp(golden_folder("text01_tiny") / "config.json")); }

Json with(Json config, const std::string& key, const Json& value) {
  config[key] = value;
  return config;
}

Json without(Json config, const std::string& key) {
  config.erase(key);
  return config;
}

ModelConfig parsed(const Json& config) { return parse_config(config.dump(), "config.json"); }

void refused(const Json& config, const std::vector<std::string>& words, ErrorKind kind = ErrorKind::invalid_input) {
  SCOPED_TRACE(words.front());
  std::vector<std::string> all = words;
  all.push_back("config.json: ");
  expect_error(kind, all, [&] { parsed(config); });
}

std::string kinds_of(const ModelConfig& c) {
  std::string text;
  for (const AttentionKind kind : c.attention) text += kind == AttentionKind::lightning ? 'l' : 's';
  return text;
}

TEST(Config, ReadsTheGoldens) {
  const ModelConfig t = read_config(golden_folder("text01_tiny"));
  EXPECT_EQ(t.family, Family::minimax_text_01);
  EXPECT_EQ(t.model_type, "minimax_text_01");
  EXPECT_EQ(std::tuple(t.vocab_size, t.width, t.layers, t.heads, t.kv_heads, t.head_dim, t.rotary_dim),
            std::tuple(61, 16, 4, 4, 2, 8, 4));
  EXPECT_EQ(std::tuple(t.experts, t.experts_per_token, t.expert_width, t.max_positions), std::tuple(4, 2, 12, 4096));
  EXPECT_EQ(std::tuple(t.norm_eps, t.lightning_norm_eps, t.rope_theta), std::tuple(1e-5, 1e-6, 1e4));
  EXPECT_EQ(std::tuple(t.softmax_residual.alpha, t.softmax_residual.beta), std::tuple(1.7, 1.1));
  EXPECT_EQ(std::tuple(t.lightning_residual.alpha, t.lightning_residual.beta), std::tuple(1.9, 0.9));
  EXPECT_EQ(std::tuple(t.moe_residual.alpha, t.moe_residual.beta), std::tuple(2.1, 0.8));
  EXPECT_TRUE(t.post_norm);
  EXPECT_EQ(kinds_of(t), "llsl");
  EXPECT_TRUE(t.eos_token_ids.empty());
  EXPECT_FALSE(t.bos_token_id.has_value());
  EXPECT_EQ(t.stated_type, DType::f32);
  EXPECT_EQ(t.lightning_layers(), 3);
  EXPECT_EQ(t.softmax_layers(), 1);

  EXPECT_EQ(kinds_of(read_config(golden_folder("text01_small") / "config.json")), "lllsllls");
  const ModelConfig pre = read_config(golden_folder("text01_prenorm"));
  EXPECT_FALSE(pre.post_norm);
  EXPECT_EQ(std::tuple(pre.lightning_residual.alpha, pre.softmax_residual.alpha, pre.moe_residual.alpha),
            std::tuple(0.95, 1.05, 1.1));
  EXPECT_EQ(read_config(golden_folder("text01_heads6")).heads, 6);
}

std::filesystem::path shared_folder() {
  const char* stated = std::getenv("FULGUR_SHARED");
  return stated ? std::filesystem::path(stated) : std::filesystem::path(FULGUR_SOURCE) / "../shared";
}

TEST(Config, ReadsTheRelease) {
  const std::filesystem::path folder = shared_folder() / "data/minimax_m1";
  if (!std::filesystem::exists(folder / "config.json")) GTEST_SKIP() << "no " << folder;
  const ModelConfig c = read_config(folder);
  EXPECT_EQ(c.model_type, "minimax_m1");
  EXPECT_EQ(c.rotary_dim, 64);
  EXPECT_EQ(c.rope_theta, 1e7);
  EXPECT_EQ(c.lightning_residual.alpha, 3.5565588200778455);
  EXPECT_EQ(c.softmax_layers(), 10);
  EXPECT_EQ(c.attention[79], AttentionKind::softmax);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{200020});
  const ParameterCount count = parameter_count(c);
  EXPECT_EQ(count.total, 456089655296);
  EXPECT_EQ(count.active, 48403306496);

  const tests::Scratch scratch;
  const std::string index = (scratch / "index.json").string();
  const std::string unpack = "xz -dc '" + (folder / "model.safetensors.index.json.xz").string() + "' > '" + index + "'";
  if (std::system(unpack.c_str()) != 0) GTEST_SKIP() << "no xz";
  std::vector<std::string> names;
  for (const auto& [name, file] : read_index(index).weight_map) names.push_back(name);
  EXPECT_EQ(names.size(), 8243U);
  const NameGap gap = compare_names(c, names);
  EXPECT_EQ(gap.found, 8243);
  EXPECT_TRUE(gap.missing.empty());
  EXPECT_TRUE(gap.unexpected.empty());
}

TEST(Config, AbsentKeysMeanWhatTheReleasedClassSays) {
  const ModelConfig c =
      parsed({{"model_type", "minimax_text_01"}, {"num_hidden_layers", 2}, {"attn_type_list", {0, 1}}});
  EXPECT_EQ(
      std::tuple(c.vocab_size, c.width, c.heads, c.kv_heads, c.head_dim, c.rotary_dim, c.expert_width, c.max_positions),
      std::tuple(32000, 4096, 32, 8, 128, 128, 14336, 131072));
  EXPECT_EQ(std::tuple(c.experts, c.experts_per_token), std::tuple(8, 2));
  EXPECT_EQ(std::tuple(c.norm_eps, c.lightning_norm_eps, c.rope_theta), std::tuple(1e-5, 1e-6, 1e6));
  EXPECT_EQ(std::tuple(c.moe_residual.alpha, c.lightning_residual.beta), std::tuple(1.0, 1.0));
  EXPECT_FALSE(c.post_norm);
  EXPECT_TRUE(c.eos_token_ids.empty());
}

TEST(Config, KnobsAndAliases) {
  EXPECT_EQ(parsed(with(tiny(), "linear_norm_eps", 1e-5)).lightning_norm_eps, 1e-5);
  EXPECT_EQ(parsed(with(tiny(), "lightning_norm_eps", 2e-5)).lightning_norm_eps, 2e-5);
  EXPECT_EQ(parsed(with(without(tiny(), "num_local_experts"), "num_experts", 3)).experts, 3);
  EXPECT_EQ(parsed(with(tiny(), "shared_intermediate_size", Json::array({0}))).experts, 4);
  EXPECT_EQ(parsed(without(tiny(), "rotary_dim")).rotary_dim, 8);
  EXPECT_EQ(parsed(with(without(tiny(), "rotary_dim"), "partial_rotary_factor", 0.25)).rotary_dim, 2);
  EXPECT_TRUE(parsed(with(tiny(), "tie_word_embeddings", true)).tied_head);
  EXPECT_EQ(parsed(with(tiny(), "eos_token_id", 7)).eos_token_ids, std::vector<int64_t>{7});
  EXPECT_EQ(parsed(with(tiny(), "eos_token_id", {7, 9})).eos_token_ids, (std::vector<int64_t>{7, 9}));
  EXPECT_EQ(parsed(with(tiny(), "bos_token_id", 3)).bos_token_id, 3);
  EXPECT_TRUE(parsed(with(tiny(), "vocab_size", 200020)).eos_token_ids.empty());
  EXPECT_EQ(parsed(with(tiny(), "vocab_size", 200021)).eos_token_ids, std::vector<int64_t>{200020});
  EXPECT_EQ(parsed(with(without(tiny(), "torch_dtype"), "dtype", "bfloat16")).stated_type, DType::bf16);
  EXPECT_EQ(parsed(without(tiny(), "torch_dtype")).stated_type, std::nullopt);
  EXPECT_EQ(parse_config(tiny().dump(), "config.json", 6).rotary_dim, 6);
  EXPECT_EQ(parsed(with(tiny(), "num_key_value_heads", nullptr)).kv_heads, 4);
}

Json library() {
  return {{"model_type", "minimax"},
          {"vocab_size", 100},
          {"hidden_size", 32},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"intermediate_size", 8},
          {"num_local_experts", 4},
          {"full_attn_alpha_factor", 1.5},
          {"full_attn_beta_factor", 0.5},
          {"linear_attn_alpha_factor", 1.25},
          {"linear_attn_beta_factor", 0.75},
          {"mlp_alpha_factor", 2.5},
          {"mlp_beta_factor", 0.25}};
}

TEST(Config, ReadsTheLibrarysFamily) {
  const ModelConfig c = parsed(library());
  EXPECT_EQ(c.family, Family::minimax);
  EXPECT_EQ(kinds_of(c), "sls");  // full attention first
  EXPECT_TRUE(c.post_norm);
  EXPECT_EQ(c.rotary_dim, 8);
  EXPECT_EQ(std::tuple(c.softmax_residual.alpha, c.softmax_residual.beta), std::tuple(1.5, 0.5));
  EXPECT_EQ(std::tuple(c.lightning_residual.alpha, c.lightning_residual.beta), std::tuple(1.25, 0.75));
  EXPECT_EQ(std::tuple(c.moe_residual.alpha, c.moe_residual.beta), std::tuple(2.5, 0.25));
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{2});
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_TRUE(parsed(with(library(), "eos_token_id", nullptr)).eos_token_ids.empty());

  const Json types = {"linear_attention", "linear_attention", "full_attention"};
  EXPECT_EQ(kinds_of(parsed(with(library(), "layer_types", types))), "lls");
  EXPECT_EQ(parsed(with(library(), "rope_theta", 5e5)).rope_theta, 5e5);
  const ModelConfig rope = parsed(with(
      library(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 3e5}, {"partial_rotary_factor", 0.5}}));
  EXPECT_EQ(std::tuple(rope.rope_theta, rope.rotary_dim), std::tuple(3e5, 4));
}

// transformers' frequencies are theta^(-2i / head_dim) for the part that is turned, in a head that pairs i and i + D
// / 2.
TEST(Config, ReadsProportionalRotary) {
  Json rope{{"rope_type", "proportional"}, {"rope_theta", 1e8}, {"partial_rotary_factor", 0.5}};
  const ModelConfig c = parsed(with(library(), "rope_parameters", rope));
  EXPECT_EQ(std::tuple(c.rope_theta, c.rotary_dim, c.proportional_rotary), std::tuple(1e4, 4, true));
  rope.erase("partial_rotary_factor");
  const ModelConfig whole = parsed(with(library(), "rope_parameters", rope));
  EXPECT_EQ(std::tuple(whole.rope_theta, whole.rotary_dim), std::tuple(1e8, 8));
  rope["partial_rotary_factor"] = 0.49;  // rounds down to whole pairs
  EXPECT_EQ(parsed(with(library(), "rope_parameters", rope)).rotary_dim, 2);
  refused(with(with(library(), "rope_parameters", rope), "rotary_dim", 4), {"rotary_dim is 4", "make it 2"});
  EXPECT_THROW(parse_config(with(library(), "rope_parameters", rope).dump(), "config.json", 4), Error);
  rope["factor"] = 2;
  refused(with(library(), "rope_parameters", rope), {"factor", "2"});
  rope.erase("factor");
  refused(with(tiny(), "rope_parameters", rope), {"rope_type", "proportional"}, ErrorKind::unsupported);
}

TEST(Config, StatesWhoseDecays) {
  EXPECT_EQ(parsed(with(library(), "fulgur_decays", "minimax_text_01")).family, Family::minimax_text_01);
  EXPECT_EQ(parsed(with(library(), "fulgur_decays", "minimax")).family, Family::minimax);
  EXPECT_EQ(parsed(with(tiny(), "fulgur_decays", "minimax")).family, Family::minimax_text_01);  // not of that family
  refused(with(library(), "fulgur_decays", "own"), {"fulgur_decays", "own"}, ErrorKind::unsupported);
}

TEST(Config, ProportionalThetaComesBack) {
  for (const double theta : {1e4, 5e5, 1e6, 1e7, 123456.789})
    for (const RotaryRows order : {RotaryRows{128, 64}, {96, 32}, {8, 6}, {10, 4}, {64, 64}, {64, 0}})
      EXPECT_EQ(from_file_theta(order, to_file_theta(order, theta)), theta)
          << order.head_dim << " " << order.rotary_dim;
  EXPECT_EQ(to_file_theta({128, 64}, 1e7), 1e14);
}

TEST(Config, AsksForTheRotaryDimAtTheReleasesShape) {
  Json release =
      with(with(with(with(library(), "hidden_size", 6144), "num_attention_heads", 64), "num_key_value_heads", 8),
           "head_dim", 128);
  refused(release, {"give --rotary-dim 64 or 128"});
  EXPECT_EQ(parse_config(release.dump(), "config.json", 64).rotary_dim, 64);
  EXPECT_EQ(parsed(with(release, "rotary_dim", 64)).rotary_dim, 64);
  EXPECT_EQ(parsed(with(release, "partial_rotary_factor", 0.5)).rotary_dim, 64);
  EXPECT_EQ(parsed(with(release, "hidden_size", 6143)).rotary_dim, 128);
}

TEST(Config, RefusesWrongTypes) {
  refused(with(tiny(), "vocab_size", "61"), {"vocab_size", "61", "whole number"});
  refused(with(tiny(), "vocab_size", 61.0), {"vocab_size", "61.0", "whole number"});
  refused(with(tiny(), "hidden_size", 18446744073709551615U), {"hidden_size", "18446744073709551615"});
  refused(with(tiny(), "num_hidden_layers", true), {"num_hidden_layers", "true"});
  refused(with(tiny(), "rope_theta", "big"), {"rope_theta", "big", "number"});
  refused(with(tiny(), "postnorm", 1), {"postnorm", "1", "true or false"});
  refused(with(tiny(), "model_type", 3), {"model_type", "text"});
  refused(with(tiny(), "attn_type_list", 0), {"attn_type_list", "list"});
  refused(with(tiny(), "attn_type_list", {0, 2, 0, 0}), {"attn_type_list", "2", "full_attention"});
  refused(with(tiny(), "attn_type_list", {0, nullptr, 0, 0}), {"attn_type_list", "null"});
  refused(with(tiny(), "eos_token_id", {1, "x"}), {"eos_token_id", "x"});
  refused(with(tiny(), "torch_dtype", "float8"), {"torch_dtype", "float8", "bfloat16"});
  refused(with(library(), "rope_parameters", 3), {"rope_parameters", "object"});
}

TEST(Config, RefusesImpossibleNumbers) {
  refused(with(tiny(), "vocab_size", 0), {"vocab_size is 0"});
  refused(with(tiny(), "vocab_size", int64_t(1) << 31), {"vocab_size is 2147483648"});
  refused(with(tiny(), "hidden_size", -16), {"hidden_size is -16"});
  refused(with(tiny(), "hidden_size", int64_t(1) << 40), {"hidden_size"});
  refused(with(tiny(), "num_hidden_layers", 5), {"4 entries", "5 layers"});
  refused(with(tiny(), "num_hidden_layers", 100000), {"num_hidden_layers"});
  refused(with(tiny(), "num_attention_heads", 0), {"num_attention_heads is 0"});
  refused(with(tiny(), "num_key_value_heads", 3), {"num_attention_heads 4", "num_key_value_heads 3"});
  refused(with(tiny(), "num_key_value_heads", 8), {"num_key_value_heads is 8"});
  refused(with(tiny(), "head_dim", 2000), {"head_dim is 2000"});
  refused(with(tiny(), "rotary_dim", 10), {"rotary_dim is 10"});
  refused(with(tiny(), "rotary_dim", 3), {"rotary_dim is 3", "even"});
  refused(with(tiny(), "partial_rotary_factor", 1.0), {"rotary_dim is 4", "partial_rotary_factor", "8"});
  refused(with(without(tiny(), "rotary_dim"), "partial_rotary_factor", 1.5), {"partial_rotary_factor", "1.5"});
  refused(with(tiny(), "num_local_experts", 0), {"num_local_experts is 0"});
  refused(with(tiny(), "num_experts_per_tok", 5), {"num_experts_per_tok is 5"});
  refused(with(tiny(), "intermediate_size", 0), {"intermediate_size is 0"});
  refused(with(tiny(), "rms_norm_eps", 0), {"rms_norm_eps is 0"});
  refused(with(tiny(), "rms_norm_eps", -1e-5), {"rms_norm_eps"});
  refused(with(tiny(), "rms_norm_eps", 1e-60), {"rms_norm_eps"});  // zero in f32
  refused(with(tiny(), "rope_theta", 0), {"rope_theta"});
  refused(with(tiny(), "layernorm_mlp_alpha", 1e39), {"mlp residual alpha"});  // infinite in f32
  refused(with(tiny(), "eos_token_id", 61), {"eos_token_id is 61"});
  refused(with(tiny(), "bos_token_id", -1), {"bos_token_id is -1"});
  refused(without(tiny(), "attn_type_list"), {"attn_type_list is missing"});
  refused(with(without(tiny(), "head_dim"), "hidden_size", 15), {"head_dim is missing"});
  refused(with(library(), "postnorm", false), {"postnorm"});
}

TEST(Config, RefusesSizesThatNoMachineHolds) {
  Json wide =
      with(with(with(tiny(), "num_local_experts", 65536), "intermediate_size", 1 << 24), "hidden_size", 1 << 20);
  refused(wide, {"parameters"});
  Json many = with(with(with(tiny(), "num_hidden_layers", 10000), "num_local_experts", 60000), "attn_type_list",
                   std::vector<int>(10000, 0));
  refused(many, {"num_hidden_layers 10000", "tensors"});
}

TEST(Config, RefusesWhatIsNotComputed) {
  const auto unsupported = ErrorKind::unsupported;
  refused(with(tiny(), "model_type", "llama"), {"llama", "minimax_text_01, minimax_m1 or minimax"}, unsupported);
  refused(with(tiny(), "model_type", "a\nb"), {"a\\x0ab"}, unsupported);
  refused(without(tiny(), "model_type"), {"model_type is missing"});
  refused(with(tiny(), "shared_intermediate_size", 8), {"shared_intermediate_size", "8"}, unsupported);
  refused(with(tiny(), "shared_intermediate_size", Json::array({8})), {"shared_intermediate_size", "[8]"}, unsupported);
  refused(with(tiny(), "hidden_act", "gelu"), {"hidden_act", "gelu"}, unsupported);
  refused(with(tiny(), "tie_word_embeddings", 1), {"tie_word_embeddings", "true or false"});
  refused(with(tiny(), "sliding_window", 128), {"sliding_window"}, unsupported);
  refused(with(tiny(), "rope_scaling", {{"type", "yarn"}}), {"rope_scaling"}, unsupported);
  refused(with(library(), "rope_parameters", {{"rope_type", "yarn"}}), {"rope_type", "yarn"}, unsupported);
}

TEST(Config, FilesThatAreNoConfiguration) {
  const tests::Scratch scratch;
  expect_error(ErrorKind::not_found, {"config.json"}, [&] { read_config(scratch.path()); });
  tests::spill(scratch / "config.json", "{\"model_type\": ");
  expect_error(ErrorKind::corrupt_file, {"config.json", "JSON", "byte 16"}, [&] { read_config(scratch.path()); });
  tests::spill(scratch / "config.json", "[]");
  expect_error(ErrorKind::corrupt_file, {"config.json", "object"}, [&] { read_config(scratch / "config.json"); });
  tests::spill(scratch / "config.json", "{\"rope_theta\": 1e999}");
  expect_error(ErrorKind::corrupt_file, {"config.json"}, [&] { read_config(scratch.path()); });
}

TEST(Slopes, OfTheRelease) {
  ModelConfig c;
  c.layers = 80, c.heads = 64;
  EXPECT_NEAR(decay_of(c, 0, 0), 0.91701321, 5e-9);
  EXPECT_NEAR(decay_of(c, 0, 63), 0.00390629, 5e-9);
  EXPECT_NEAR(decay_of(c, 39, 0), 0.46431501, 5e-9);
  EXPECT_NEAR(decay_of(c, 39, 63), 0.00197789, 5e-9);
  EXPECT_NEAR(decay_of(c, 78, 0), 0.01161682, 5e-9);
  EXPECT_NEAR(decay_of(c, 78, 63), 4.9485e-5, 5e-10);
  c.family = Family::minimax;  // its factor differs by at most 1.3e-7
  EXPECT_NEAR(decay_of(c, 39, 0), 0.46431501, 1.3e-7);
  EXPECT_NE(float(decay_of(c, 78, 0)), 0.01161682F);
}

TEST(Slopes, BetweenPowersOfTwo) {
  ModelConfig c;
  c.layers = 2, c.heads = 6;
  const double factor = 1 + 1e-5;
  const double released[] = {-2, -4, -6, -8, -1, -3};  // those of 4 heads, then every other one of 8
  for (int64_t h = 0; h < 6; ++h) EXPECT_DOUBLE_EQ(decay_of(c, 0, h), std::exp2(released[h]) * factor) << h;
  c.family = Family::minimax;
  for (int64_t h = 0; h < 6; ++h)
    EXPECT_DOUBLE_EQ(decay_of(c, 0, h), std::exp2(-8.0 * double(h + 1) / 6) * factor) << h;
}

TEST(Slopes, OfOneLayer) {
  ModelConfig c;
  c.layers = 1, c.heads = 2;
  for (const Family family : {Family::minimax_text_01, Family::minimax}) {
    c.family = family;
    EXPECT_DOUBLE_EQ(decay_of(c, 0, 1), 0x1p-8 * (1 + 1e-5));
  }
}

}  // namespace
}  // namespace fulgur

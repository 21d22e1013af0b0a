// Weights: one flat buffer under checkpoint names, initial values by the book, and the way to disk and back.
#include "model/weights.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "model/checkpoint.h"
#include "model/initialise.h"
#include "tests/scratch.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using tests::expect_error;
using tests::golden_folder;
using tests::Scratch;
using tests::slurp;
using tests::spill;

const Parameter& named(const ModelWeights& w, const std::string& name) {
  for (const Parameter& p : w.parameters)
    if (p.checkpoint_name == name) return p;
  throw std::runtime_error("no parameter " + name);
}

TEST(Weights, EveryParameterLiesAlignedAndAlone) {
  for (const char* golden : {"text01_tiny", "text01_small", "text01_heads6"}) {
    const ModelConfig c = read_config(golden_folder(golden));
    const LoadedWeights loaded = allocate_weights(c, DType::f32);
    const ModelWeights& w = loaded.weights;
    std::map<int64_t, const Parameter*> by_offset;
    int64_t total = 0;
    for (const Parameter& p : w.parameters) {
      EXPECT_TRUE(by_offset.emplace(p.offset, &p).second);
      EXPECT_EQ(p.view.data, w.flat.data + p.offset * 4) << p.checkpoint_name;
      EXPECT_TRUE(p.view.dense());
      EXPECT_EQ(p.offset >= w.experts_begin, p.checkpoint_name.find(".experts.") != std::string::npos)
          << p.checkpoint_name;
      total += p.view.count();
    }
    int64_t end = 0;
    for (const auto& [offset, p] : by_offset) {
      EXPECT_GE(offset, end) << p->checkpoint_name;
      end = offset + p->view.count();
    }
    EXPECT_LE(end, w.flat.dim(0));
    EXPECT_EQ(w.flat.dim(0) % kParameterAlign, 0);
    EXPECT_EQ(parameter_count(c).total, total);
    EXPECT_EQ(named(w, "model.layers.0.self_attn.norm.weight").offset % kParameterAlign, 0);
    EXPECT_EQ(w.experts_begin % kParameterAlign, 0);
  }
}

TEST(Weights, FieldsArePartsOfTheFile) {
  const ModelConfig c = read_config(golden_folder("text01_tiny"));
  const LoadedWeights loaded = load_weights(c, golden_folder("text01_tiny"), DType::f64);
  const ModelWeights& w = loaded.weights;
  const auto& softmax = std::get<SoftmaxWeights>(w.layers[2].attention);
  const auto& lightning = std::get<LightningWeights>(w.layers[3].attention);
  EXPECT_TRUE(softmax.qkv.values.is(DType::f64, {64, 16}));
  EXPECT_EQ(softmax.qkv.values.rows(32, 48).data, named(w, "model.layers.2.self_attn.k_proj.weight").view.data);
  EXPECT_EQ(softmax.qkv.values.rows(48, 64).data, named(w, "model.layers.2.self_attn.v_proj.weight").view.data);
  EXPECT_TRUE(lightning.qkv.values.is(DType::f64, {96, 16}));
  EXPECT_TRUE(lightning.out.values.is(DType::f64, {16, 32}));
  EXPECT_TRUE(w.layers[1].moe.down.values.is(DType::f64, {4, 16, 12}));
  EXPECT_TRUE(w.layers[1].moe.gate_up.values.is(DType::f64, {4, 24, 16}) && w.layers[1].moe.gate_up.values.dense());
  EXPECT_EQ(w.layers[1].moe.gate_up.values.at(3).rows(12, 24).data, w.layers[1].moe.up.values.at(3).data);
  EXPECT_EQ(w.layers[1].moe.up.values.at(3).data,
            named(w, "model.layers.1.block_sparse_moe.experts.3.w3.weight").view.data);
  EXPECT_EQ(w.layers[1].moe.gate.values.at(2).data,
            named(w, "model.layers.1.block_sparse_moe.experts.2.w1.weight").view.data);
  // First values by spec/model.md 10.1.
  EXPECT_NEAR((w.embedding.values.view<double, 2>()(0, 1)), -0.797380794, 1e-7);
  EXPECT_NEAR(named(w, "model.layers.0.self_attn.qkv_proj.weight").view.elements<double>()[2], -0.465064309, 1e-7);
  EXPECT_NEAR(named(w, "model.layers.0.self_attn.norm.weight").view.elements<double>()[3], 0.554374767, 1e-7);
}

TEST(Weights, DecaysAreTheSlopes) {
  const ModelConfig c = read_config(golden_folder("text01_heads6"));
  const LoadedWeights f32 = allocate_weights(c, DType::f32), f64 = allocate_weights(c, DType::f64);
  for (const int64_t layer : {0, 1, 3}) {
    const Tensor decay = std::get<LightningWeights>(f32.weights.layers[size_t(layer)].attention).decay;
    ASSERT_TRUE(decay.is(DType::f32, {6}));
    for (int64_t h = 0; h < 6; ++h) EXPECT_EQ(decay.elements<float>()[h], float(decay_of(c, layer, h)));
    EXPECT_EQ(std::get<LightningWeights>(f64.weights.layers[size_t(layer)].attention).decay.elements<double>()[5],
              decay_of(c, layer, 5));
  }
  ModelWeights names = views_of(c, contiguous(nullptr, DType::bf16, {}, {flat_elements(c)}));
  fill_decays(c, names, contiguous(nullptr, DType::f32, {}, {c.layers, c.heads}));  // no bytes: shapes alone
  EXPECT_TRUE(std::get<LightningWeights>(names.layers[0].attention).decay.is(DType::f32, {6}));
}

TEST(Weights, DecayIsForMatricesAndTheHead) {
  const ModelConfig c = read_config(golden_folder("text01_tiny"));
  const LoadedWeights loaded = allocate_weights(c, DType::f32);
  const auto ranges = not_decayed_ranges(loaded.weights);
  int64_t last = -1;
  for (const auto& [begin, end] : ranges) {
    EXPECT_LT(last, begin);
    EXPECT_LT(begin, end);
    last = end;
  }
  for (const Parameter& p : loaded.weights.parameters) {
    const std::string& n = p.checkpoint_name;
    const bool alone =
        n.find("norm") != n.npos || n.ends_with("embed_tokens.weight") || n.ends_with("block_sparse_moe.gate.weight");
    int64_t covered = 0;
    for (const auto& [begin, end] : ranges)
      covered += std::max(int64_t(0), std::min(end, p.offset + p.view.count()) - std::max(begin, p.offset));
    EXPECT_EQ(covered, alone ? p.view.count() : 0) << n;
  }
  // The embedding and the first layer's norm lie side by side.
  EXPECT_EQ(ranges.front(), (std::pair<int64_t, int64_t>(0, 1024 + 16)));
}

// One wide layer of each kind, so that a deviation can be measured.
ModelConfig measurable(bool post_norm) {
  ModelConfig c;
  c.model_type = "minimax_text_01";
  c.vocab_size = 500, c.width = 96, c.layers = 2, c.heads = 6, c.kv_heads = 2, c.head_dim = 32, c.rotary_dim = 16;
  c.experts = 40, c.experts_per_token = 2, c.expert_width = 64, c.rope_theta = 1e4, c.max_positions = 64;
  c.post_norm = post_norm, c.attention = {AttentionKind::lightning, AttentionKind::softmax};
  require_valid(c);
  return c;
}

double deviation(const Tensor& t) {
  double sum = 0;
  const double* values = t.elements<double>();
  for (int64_t i = 0; i < t.count(); ++i) sum += values[i] * values[i];
  return std::sqrt(sum / double(t.count()));
}

double xavier(double gain, double fan_in, double fan_out) { return gain * std::sqrt(2 / (fan_in + fan_out)); }

void expect_deviation(const Tensor& t, double want, const char* what) {
  EXPECT_NEAR(deviation(t) / want, 1, 5 / std::sqrt(2 * double(t.count()))) << what;  // five standard errors
}

TEST(Initialise, DeviationsOfEveryKind) {
  for (const bool post_norm : {true, false}) {
    const ModelConfig c = measurable(post_norm);
    LoadedWeights loaded = allocate_weights(c, DType::f64);
    Threads threads(1);
    initialise(c, loaded.weights, 7, threads);
    const ModelWeights& w = loaded.weights;
    const double beta = post_norm ? std::pow(16.0, -0.25) : 1;
    const std::string l0 = "model.layers.0.", l1 = "model.layers.1.";
    const auto check = [&](const std::string& name, double want) {
      expect_deviation(named(w, name).view, want, name.c_str());
    };
    const auto& lightning = std::get<LightningWeights>(w.layers[0].attention);
    for (int64_t h = 0; h < c.heads; ++h) {
      expect_deviation(lightning.qkv.values.rows(96 * h, 96 * h + 64), xavier(1, 96, 192), "q and k rows");
      expect_deviation(lightning.qkv.values.rows(96 * h + 64, 96 * h + 96), xavier(beta, 96, 192), "v rows");
    }
    check(l0 + "self_attn.output_gate.weight", xavier(1, 96, 192));
    check(l0 + "self_attn.out_proj.weight", xavier(beta, 192, 96));
    check(l1 + "self_attn.q_proj.weight", xavier(1, 96, 192));
    check(l1 + "self_attn.k_proj.weight", xavier(1, 96, 64));
    check(l1 + "self_attn.v_proj.weight", xavier(beta, 96, 64));
    check(l1 + "self_attn.o_proj.weight", xavier(beta, 192, 96));
    check(l1 + "block_sparse_moe.gate.weight", xavier(1, 96, 40));
    check(l0 + "block_sparse_moe.experts.39.w1.weight", xavier(beta, 96, 64));
    check(l0 + "block_sparse_moe.experts.39.w2.weight", xavier(beta, 64, 96));
    check(l0 + "block_sparse_moe.experts.39.w3.weight", xavier(1, 96, 64));
    check("model.embed_tokens.weight", xavier(1, 500, 96));
    check("lm_head.weight", xavier(1, 500, 96));
    for (const Parameter& p : w.parameters)
      for (int64_t i = 0; p.kind == ParameterKind::norm && i < p.view.count(); ++i)
        EXPECT_EQ(p.view.elements<double>()[i], 1);
  }
}

TEST(Initialise, ElementsAreDrawnFromSeedNameAndIndex) {
  const ModelConfig c = measurable(true);
  LoadedWeights wide = allocate_weights(c, DType::f64), narrow = allocate_weights(c, DType::f32);
  Threads one(1), three(3);
  initialise(c, wide.weights, 11, one);
  initialise(c, narrow.weights, 11, three);
  for (const Parameter& p : wide.weights.parameters) {
    const Tensor same = named(narrow.weights, p.checkpoint_name).view;
    for (int64_t i = 0; i < p.view.count(); ++i)
      ASSERT_EQ(float(p.view.elements<double>()[i]), same.elements<float>()[i]) << p.checkpoint_name;
  }
  // Box-Muller, written out once more.
  const std::string name = "model.layers.1.block_sparse_moe.experts.5.w3.weight";
  const auto words = philox(11, 4321, fnv1a64(name));
  const double u0 = (words[0] + 0.5) / 4294967296.0, u1 = (words[1] + 0.5) / 4294967296.0;
  const double normal = std::sqrt(-2 * std::log(u0)) * std::cos(2 * M_PI * u1);
  EXPECT_DOUBLE_EQ(named(wide.weights, name).view.elements<double>()[4321], normal * xavier(1, 96, 64));
  LoadedWeights other = allocate_weights(c, DType::f64);
  initialise(c, other.weights, 12, one);
  EXPECT_NE(named(other.weights, name).view.elements<double>()[4321],
            named(wide.weights, name).view.elements<double>()[4321]);
}

TEST(Initialise, NormalsAreNormal) {
  double sum = 0, squares = 0, fourth = 0, neighbours = 0, last = 0;
  constexpr int kDraws = 200000;
  for (uint64_t i = 0; i < kDraws; ++i) {
    const double x = initial_normal(3, 5, i);
    sum += x, squares += x * x, fourth += x * x * x * x, neighbours += x * last, last = x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.012);
  EXPECT_NEAR(squares / kDraws, 1, 0.016);
  EXPECT_NEAR(fourth / kDraws, 3, 0.12);
  EXPECT_NEAR(neighbours / kDraws, 0, 0.012);
}

TEST(SavedModel, ComesBackBitForBit) {
  const Scratch scratch;
  const fs::path source = golden_folder("text01_tiny");
  const ModelConfig c = read_config(source);
  const LoadedWeights first = load_weights(c, source, DType::f32);
  fs::create_directory(scratch / "saved");
  write_model(scratch / "saved", slurp(source / "config.json"), first.weights, DType::f32, 10000);
  EXPECT_EQ(slurp(scratch / "saved/config.json"), slurp(source / "config.json"));
  EXPECT_TRUE(fs::exists(scratch / "saved/model.safetensors.index.json"));
  const LoadedWeights second = load_weights(read_config(scratch / "saved"), scratch / "saved", DType::f32);
  EXPECT_EQ(std::memcmp(first.flat.data(), second.flat.data(), first.flat.bytes()), 0);

  fs::create_directory(scratch / "rounded");
  write_model(scratch / "rounded", slurp(source / "config.json"), first.weights, DType::bf16);
  EXPECT_EQ(stored_type(Checkpoint::open(scratch / "rounded")), DType::bf16);
  const LoadedWeights rounded = load_weights(c, scratch / "rounded", DType::f32);
  const Tensor before = first.weights.head.values, after = rounded.weights.head.values;
  for (int64_t i = 0; i < before.count(); ++i)
    ASSERT_EQ(after.elements<float>()[i], float(bf16(before.elements<float>()[i])));
}

// One matrix, without a tensor of the head's in the file; a file that has one is refused.
TEST(SavedModel, OfATiedHeadHasNoHead) {
  const Scratch scratch;
  const fs::path source = golden_folder("text01_tiny");
  const std::string text = tests::replaced(slurp(source / "config.json"), R"("tie_word_embeddings": false)",
                                           R"("tie_word_embeddings": true)");
  const ModelConfig c = parse_config(text, "config.json");
  const LoadedWeights first = allocate_weights(c, DType::f32);
  EXPECT_EQ(first.weights.head.values.data, first.weights.embedding.values.data);
  EXPECT_EQ(parameter_count(c).total, parameter_count(read_config(source)).total - c.vocab_size * c.width);
  Threads threads(1);
  ModelWeights drawn = first.weights;
  initialise(c, drawn, 1, threads);
  fs::create_directory(scratch / "saved");
  write_model(scratch / "saved", text, first.weights, DType::f32);
  const LoadedWeights second = load_weights(read_config(scratch / "saved"), scratch / "saved", DType::f32);
  EXPECT_EQ(std::memcmp(first.flat.data(), second.flat.data(), first.flat.bytes()), 0);
  expect_error(ErrorKind::corrupt_file, {"lm_head.weight"}, [&] { load_weights(c, source, DType::f32); });
}

TEST(SavedParameters, ComeBackBitForBit) {
  const Scratch scratch;
  const ModelConfig c = read_config(golden_folder("text01_tiny"));
  const LoadedWeights first = load_weights(c, golden_folder("text01_tiny"), DType::f32);
  const LoadedWeights second = allocate_weights(c, DType::f32);
  save_parameters(scratch / "first.safetensors", first.weights, DType::f32);
  load_parameters(scratch / "first.safetensors", second.weights);
  EXPECT_EQ(std::memcmp(first.flat.data(), second.flat.data(), first.flat.bytes()), 0);
  const LoadedWeights other = allocate_weights(read_config(golden_folder("text01_heads6")), DType::f32);
  expect_error(ErrorKind::corrupt_file, {"first.safetensors"},
               [&] { load_parameters(scratch / "first.safetensors", other.weights); });
}

// The tiny golden with one entry of its header changed.
class HurtModel : public ::testing::Test {
 protected:
  void SetUp() override {
    tests::copy_model(golden_folder("text01_tiny"), scratch_ / "m");
    std::tie(header_, data_) = tests::split_safetensors(slurp(file_));
  }
  void refused(const std::string& header, const std::vector<std::string>& words) {
    spill(file_, tests::raw_safetensors(header, data_));
    expect_error(ErrorKind::corrupt_file, words,
                 [&] { load_weights(read_config(scratch_ / "m"), scratch_ / "m", DType::f32); });
  }
  const std::string norm_ = "model.layers.1.input_layernorm.weight";
  Scratch scratch_;
  fs::path file_ = scratch_ / "m/model.safetensors";
  std::string header_, data_;
};

TEST_F(HurtModel, MissingTensor) {  // under another name, so that the file itself is sound
  refused(tests::replaced(header_, norm_, "model.layers.1.self_attn.slope_rate"), {"\"" + norm_ + "\"", "missing"});
}
TEST_F(HurtModel, UnexpectedTensor) {
  refused(tests::replaced(header_, norm_, "model.layers.9.input_layernorm.weight"),
          {"\"model.layers.9.input_layernorm.weight\"", "unexpected"});
}
TEST_F(HurtModel, WrongShape) {
  const size_t at = header_.find(norm_);
  refused(header_.substr(0, at) + tests::replaced(header_.substr(at), "[16]", "[4,4]"),
          {norm_, "F32 [4, 4]", "F32 [16]"});
}
TEST_F(HurtModel, WrongType) {
  const size_t at = header_.find(norm_);
  refused(header_.substr(0, at) + tests::replaced(header_.substr(at), "\"F32\"", "\"I32\""),
          {norm_, "I32 [16]", "F64, F32, BF16 or F16"});
}
TEST_F(HurtModel, DecayBuffersOfTransformersAreIgnored) {
  std::string extra;
  int64_t begin = int64_t(data_.size());
  for (const char* name : {"slope_rate", "query_decay", "key_decay", "diagonal_decay"}) {
    extra += ",\"model.layers.0.self_attn." + std::string(name) +
             "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" + std::to_string(begin) + "," +
             std::to_string(begin + 4) + "]}";
    begin += 4;
  }
  header_.resize(header_.rfind('}'));
  spill(file_, tests::raw_safetensors(header_ + extra + "}", data_ + std::string(16, '\0')));
  EXPECT_NO_THROW(load_weights(read_config(scratch_ / "m"), scratch_ / "m", DType::f32));
}
TEST_F(HurtModel, NamesAreCompared) {
  spill(file_, tests::raw_safetensors(tests::replaced(header_, norm_, "strange"), data_));
  const NameGap gap = compare_names(read_config(scratch_ / "m"), Checkpoint::open(scratch_ / "m").names());
  EXPECT_EQ(gap.found, 78);
  EXPECT_EQ(gap.missing, std::vector<std::string>{norm_});
  EXPECT_EQ(gap.unexpected, std::vector<std::string>{"strange"});
}

TEST(Weights, TooLargeForMemoryIsSaidBeforeWork) {
  ModelConfig c = measurable(true);
  c.expert_width = 1 << 20, c.width = 1 << 15;  // 16 TB
  require_valid(c);
  expect_error(ErrorKind::out_of_memory, {"bytes"}, [&] { allocate_weights(c, DType::f32); });
}

}  // namespace
}  // namespace fulgur

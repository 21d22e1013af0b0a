// fulgur quantize: what becomes int8 and what stays, how near it is, and that damage is named.
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/checkpoint.h"
#include "model/quantisation.h"
#include "quant/int8.h"
#include "tests/scratch.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using tests::expect_error;
using tests::expect_exit;
using tests::Finished;
using tests::slurp;
using tests::spill;

struct QuantisedMatrix {
  std::vector<float> scales;
  std::vector<int8_t> values;
  QuantisedMatrix(const std::vector<float>& numbers, int64_t rows)
      : scales(size_t(rows * scale_count(int64_t(numbers.size()) / rows))), values(numbers.size()) {
    Threads threads(2);
    const MatrixToQuantise m{numbers.data(), rows, int64_t(numbers.size()) / rows};
    quantise_scales(threads, m, "some.weight", scales.data());
    quantise_values(threads, m, scales.data(), values.data());
  }
};

TEST(Int8Rows, scale_is_the_largest_over_127_as_bf16_and_halves_go_to_even) {
  std::vector<float> numbers(300, 0.25F);
  numbers[0] = -127, numbers[1] = 0.5F, numbers[2] = 1.5F, numbers[3] = -2.5F, numbers[4] = 126.6F;
  numbers[200] = 12.7F, numbers[299] = 3e-40F;
  const QuantisedMatrix q(numbers, 1);
  ASSERT_EQ(q.scales.size(), 3U);
  EXPECT_EQ(q.scales[0], 1);
  EXPECT_EQ(q.scales[1], float(bf16(12.7F / 127)));
  const std::vector<int8_t> first(q.values.begin(), q.values.begin() + 6);
  EXPECT_EQ(first, (std::vector<int8_t>{-127, 0, 2, -2, 127, 0}));
  EXPECT_EQ(q.values[200], 127);
}

TEST(Int8Rows, every_number_is_within_half_a_step) {
  std::vector<float> numbers;
  for (uint64_t i = 0; i < 7 * 333; ++i)
    numbers.push_back(float(std::sin(double(i) * 1.7) * std::exp(std::cos(double(i)))));
  const QuantisedMatrix q(numbers, 7);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const float scale = q.scales[i / 333 * 3 + i % 333 / 128];
    EXPECT_LE(std::abs(double(numbers[i]) - double(q.values[i]) * double(scale)), 0.5 * double(scale) * (1 + 1e-12));
    EXPECT_GE(q.values[i], -127);
  }
}

TEST(Int8Rows, zeros_tiny_numbers_and_those_that_are_none) {
  const QuantisedMatrix zeros(std::vector<float>(5, 0.0F), 1);
  EXPECT_EQ(zeros.scales, std::vector<float>{0});
  EXPECT_EQ(zeros.values, std::vector<int8_t>(5, 0));
  const QuantisedMatrix tiny({1e-45F, -1e-39F}, 1);
  EXPECT_GT(tiny.scales[0], 0);
  EXPECT_TRUE(std::isfinite(tiny.scales[0]));
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::nanf("")})
    expect_error(ErrorKind::corrupt_file, {"\"some.weight\"", "not finite"}, [&] {
      QuantisedMatrix({1, wrong, 2}, 1);
    });
}

TEST(Int8Config, other_quantisations_are_refused_by_name) {
  const std::string text = slurp(tests::golden_folder("text01_tiny") / "config.json"), ours = with_int8_experts(text);
  EXPECT_FALSE(parse_config(text, "c").int8_experts);
  EXPECT_TRUE(parse_config(ours, "c").int8_experts);
  EXPECT_FALSE(parse_config(without_int8_experts(ours), "c").int8_experts);
  EXPECT_TRUE(parse_config(with_int8_experts(without_int8_experts(ours)), "c").int8_experts);
  const auto refused = [&](const std::string& was, const std::string& now, const std::vector<std::string>& words) {
    expect_error(ErrorKind::unsupported, words, [&] { parse_config(tests::replaced(ours, was, now), "c"); });
  };
  refused("compressed-tensors", "gptq", {"quantization_config.quant_method", "gptq", "compressed-tensors"});
  refused("int-quantized", "pack-quantized", {"quantization_config.format", "pack-quantized"});
  refused("\"num_bits\":8", "\"num_bits\":4", {"config_groups.group_0.weights.num_bits", "4", "8"});
  refused("\"group_size\":128", "\"group_size\":64", {"group_size", "64", "128"});
  refused("w[123]$", "w[12]$", {"config_groups.group_0.targets"});
  refused("\"ignore\":[]", "\"kv_cache_scheme\":{\"num_bits\":8}", {"quantization_config.ignore"});
  refused("{\"quant_method\"", "[\"quant_method\",{}],\"x\":{\"quant_method\"", {"quantization_config", "an object"});
}

class Quantize : public ::testing::Test {
 protected:
  void SetUp() override {
    if (tests::program().empty()) GTEST_SKIP() << "the program is not built";
    tests::copy_model(tests::golden_folder("text01_small"), model_);
    spill(model_ / "tokenizer.json", "{\"any\": \"text\"}");
  }

  Finished run(std::vector<std::string> arguments) { return tests::run_program(arguments, scratch_ / "run"); }
  Finished quantize(std::vector<std::string> options = {"--format", "int8"}) {
    options.insert(options.begin(), {"quantize", model_.string(), out_.string()});
    return run(options);
  }
  std::string logits(const fs::path& model, const std::string& type, const std::string& chunk = "100",
                     const std::string& threads = "2") {
    const std::string file = (scratch_ / "logits.safetensors").string();
    expect_exit(run({"logits", model.string(), "--device", "cpu", "--ids", "1,2,3,4,5,6,7,8,9,10,11,12", "--dtype",
                     type, "--chunk", chunk, "--threads", threads, "--out", file}),
                0);
    return slurp(file);
  }

  tests::Scratch scratch_;
  const fs::path model_ = scratch_ / "model", out_ = scratch_ / "int8";
};

TEST_F(Quantize, ExpertsBecomeInt8AndAllElseStays) {
  expect_exit(quantize({"--format", "int8", "--max-shard-bytes", "20000"}), 0);
  EXPECT_EQ(slurp(out_ / "tokenizer.json"), slurp(model_ / "tokenizer.json"));
  const ModelConfig config = read_config(out_);
  EXPECT_TRUE(config.int8_experts);
  const Checkpoint before = Checkpoint::open(model_), after = Checkpoint::open(out_);
  EXPECT_GT(after.shards().size(), 2U);
  int64_t quantised = 0;
  for (const std::string& name : before.names()) {
    const StoredTensor &was = *before.find(name), &is = *after.find(name);
    ASSERT_EQ(is.shape, was.shape) << name;
    if (name.find(".experts.") == name.npos) {
      EXPECT_EQ(is.dtype, was.dtype) << name;
      EXPECT_EQ(std::memcmp(is.bytes.data(), was.bytes.data(), was.bytes.size()), 0) << name;
      continue;
    }
    ++quantised;
    const StoredTensor* const scales = after.find(name + "_scale");
    ASSERT_TRUE(scales && is.dtype == DType::i8 && scales->dtype == DType::f32) << name;
    EXPECT_EQ(scales->shape, (std::vector<int64_t>{was.shape[0], scale_count(was.shape[1])}));
  }
  EXPECT_EQ(quantised, config.layers * config.experts * 3);
  EXPECT_EQ(int64_t(after.names().size()), int64_t(before.names().size()) + quantised);
}

TEST_F(Quantize, LogitsAreThoseOfTheDequantisedModel) {
  expect_exit(quantize(), 0);
  for (const std::string type : {"f32", "bf16"}) {
    const fs::path plain = scratch_ / ("plain_" + type);
    expect_exit(run({"convert", out_.string(), plain.string(), "--dtype", type}), 0);
    EXPECT_FALSE(read_config(plain).int8_experts);
    EXPECT_EQ(Checkpoint::open(plain).names().size(), Checkpoint::open(model_).names().size());
    const std::string ours = logits(out_, type);
    EXPECT_EQ(ours, logits(plain, type)) << type;
    EXPECT_EQ(ours, logits(out_, type, "5", "1")) << type;
    EXPECT_NE(ours, logits(model_, type)) << type;
  }
}

TEST_F(Quantize, ConvertKeepsInt8WhereNoTypeIsAsked) {
  expect_exit(quantize(), 0);
  expect_exit(run({"convert", out_.string(), (scratch_ / "many").string(), "--max-shard-bytes", "9000"}), 0);
  EXPECT_EQ(slurp(scratch_ / "many/config.json"), slurp(out_ / "config.json"));
  EXPECT_EQ(logits(scratch_ / "many", "bf16"), logits(out_, "bf16"));
  const Finished family = run({"convert", out_.string(), (scratch_ / "family").string(), "--format", "minimax"});
  expect_exit(family, 2);
  EXPECT_NE(family.err.find("int8"), family.err.npos);
}

TEST_F(Quantize, InspectCounts) {
  expect_exit(quantize(), 0);
  const auto report = [&](const fs::path& model) {
    const Finished finished = run({"inspect", model.string(), "--json"});
    expect_exit(finished, 0);
    return nlohmann::json::parse(finished.out);
  };
  const nlohmann::json plain = report(model_), int8 = report(out_);
  EXPECT_EQ(int8["parameters"], plain["parameters"]);
  EXPECT_EQ(int8["dtype"], plain["dtype"]);
  EXPECT_EQ(int8["config"]["int8_experts"], true);
  EXPECT_EQ(int8["tensors"]["missing"].size() + int8["tensors"]["misshapen"].size(), 0U);
  int64_t bytes = 0;
  const Checkpoint checkpoint = Checkpoint::open(out_);
  for (const std::string& name : checkpoint.names()) bytes += int64_t(checkpoint.find(name)->bytes.size());
  EXPECT_EQ(int8["weight_bytes"], bytes);
}

TEST_F(Quantize, RefusesBeforeItWrites) {
  expect_exit(quantize({}), 2);
  expect_exit(quantize({"--format", "int4"}), 2);
  std::string bytes = slurp(model_ / "model.safetensors");
  const auto [header, data] = tests::split_safetensors(bytes);
  const size_t entry = header.find("experts.0.w1.weight"), at = header.find("data_offsets", entry);
  const auto begin = size_t(std::stoll(header.substr(header.find('[', at) + 1)));
  std::string hurt = data;
  const float nan = std::nanf("");
  std::memcpy(hurt.data() + begin + 8, &nan, 4);
  spill(model_ / "model.safetensors", tests::raw_safetensors(header, hurt));
  const Finished finished = quantize();
  EXPECT_EQ(finished.exit, 3);  // its progress goes before its one line
  EXPECT_NE(finished.err.find("experts.0.w1.weight"), finished.err.npos) << finished.err;
  EXPECT_FALSE(fs::exists(out_));
  spill(model_ / "model.safetensors", bytes);
  expect_exit(quantize(), 0);
  const Finished again = run({"quantize", out_.string(), (scratch_ / "twice").string(), "--format", "int8"});
  expect_exit(again, 2);
  EXPECT_NE(again.err.find("int8 already"), again.err.npos);
  const Finished gradients =
      run({"gradients", out_.string(), "--ids", "1,2,3", "--out", (scratch_ / "g.safetensors").string()});
  expect_exit(gradients, 2);
  EXPECT_NE(gradients.err.find("no gradients"), gradients.err.npos);
}

// One entry of the header, or one number, of an int8 model changed.
TEST_F(Quantize, DamageIsNamed) {
  expect_exit(quantize(), 0);
  const fs::path file = out_ / "model.safetensors";
  const auto [header, data] = tests::split_safetensors(slurp(file));
  const std::string scale = "model.layers.0.block_sparse_moe.experts.0.w1.weight_scale";
  const auto refused = [&](const std::string& new_header, const std::string& new_data,
                           const std::vector<std::string>& words) {
    spill(file, tests::raw_safetensors(new_header, new_data));
    expect_error(ErrorKind::corrupt_file, words, [&] { load_weights(read_config(out_), out_, DType::f32); });
  };
  const size_t at = header.find("\"" + scale + "\"");
  ASSERT_NE(at, header.npos);
  refused(tests::replaced(header, scale, "strange"), data, {"\"strange\"", "unexpected"});
  refused(tests::replaced(header, scale, "model.layers.0.self_attn.slope_rate"), data, {scale, "missing"});
  refused(header.substr(0, at) + tests::replaced(header.substr(at), "[48,1]", "[1,48]"), data,
          {scale, "F32 [1, 48]", "F32 [48, 1]"});
  refused(header.substr(0, at) + tests::replaced(header.substr(at), "\"F32\"", "\"I32\""), data,
          {scale, "I32 [48, 1]", "F64, F32, BF16 or F16"});
  const std::string weight = scale.substr(0, scale.size() - 6);
  const size_t of_weight = header.find("\"" + weight + "\"");
  refused(header.substr(0, of_weight) + tests::replaced(header.substr(of_weight), "\"I8\"", "\"U8\""), data,
          {weight, "U8 [48, 64]", "I8 [48, 64]"});
  std::string hurt = data;
  const size_t offsets = header.find("data_offsets", at);
  const auto begin = size_t(std::stoll(header.substr(header.find('[', offsets) + 1)));
  const float infinite = std::numeric_limits<float>::infinity();
  std::memcpy(hurt.data() + begin, &infinite, 4);
  refused(header, hurt, {scale, "not finite"});
  spill(file, tests::raw_safetensors(header, data));
  EXPECT_NO_THROW(load_weights(read_config(out_), out_, DType::f32));
}

}  // namespace
}  // namespace fulgur

// label: slow
// A model with int8 experts, on the tests' device: the bits of the model whose experts were dequantised before, in
// prompts, chunks and decode steps.
#include <gtest/gtest.h>

#include <cmath>

#include "bench/check_twins.h"
#include "bench/random_model.h"
#include "device/transfer.h"
#include "generate/engine.h"
#include "tests/golden.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

using bench::RandomModel;

constexpr int64_t kTokens = 90;

// Widths of more than one scale, of which the last is not whole, as a GPU's copy engine takes them.
ModelConfig int8_config() {
  ModelConfig c = tiny_config();
  c.width = 144, c.expert_width = 272, c.layers = 2, c.attention.resize(2);
  c.int8_experts = true;
  return c;
}

const Parameter& parameter(const ModelWeights& w, const std::string& name) {
  for (const Parameter& p : w.parameters)
    if (p.checkpoint_name == name) return p;
  throw std::runtime_error("no parameter " + name);
}

template <class T>
void dequantise(Stream& stream, const ModelWeights& int8, const Parameter& to) {
  const Parameter &from = parameter(int8, to.checkpoint_name), &of = parameter(int8, to.checkpoint_name + "_scale");
  const std::vector<int8_t> values = download<int8_t>(stream, from.view);
  const std::vector<float> scales = download<float>(stream, of.view);
  std::vector<T> numbers;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t row = int64_t(i) / from.view.dim(1), column = int64_t(i) % from.view.dim(1);
    numbers.push_back(dequantised<T>(values[i], scales[size_t(row * of.view.dim(1) + column / kScaleColumns)]));
  }
  send(stream, to.view, numbers.data());
  stream.synchronize();
}

// The same model, its experts dequantised.
std::unique_ptr<RandomModel> dequantised_copy(const RandomModel& int8, DType type) {
  ModelConfig c = int8.config;
  c.int8_experts = false;
  auto plain = std::make_unique<RandomModel>(c, type, 2, test_device());
  Stream stream(test_device());
  for (const Parameter& p : plain->weights.parameters) {
    if (p.checkpoint_name.find(".experts.") == std::string::npos) continue;
    if (type == DType::bf16) dequantise<bf16>(stream, int8.weights, p);
    else dequantise<float>(stream, int8.weights, p);
  }
  return plain;
}

std::vector<std::byte> rows(const RandomModel& m, int64_t chunk) {
  Engine engine(
      m.config, m.weights,
      {.sequences = 1, .tokens = kTokens, .traces = true, .threads = 2, .limits = {.rows = kTokens, .chunk = chunk}});
  EngineRows rows(m.config, kTokens, m.weights.flat.dtype);
  Sequence sequence = engine.begin(bench::random_tokens(m.config, kTokens, 1));
  sequence.trace = &rows.trace;
  Sequence* const running[] = {&sequence};
  while (sequence.pending() > 0) engine.step(running);
  return {rows.memory.data(), rows.memory.data() + rows.memory.bytes()};
}

TEST(Int8Model, has_the_bits_of_the_dequantised_one_in_any_chunks) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const RandomModel int8(int8_config(), type, 2, test_device());
    const std::unique_ptr<RandomModel> plain = dequantised_copy(int8, type);
    const std::vector<std::byte> whole = rows(int8, kTokens);
    EXPECT_EQ(whole, rows(*plain, kTokens)) << name_of(type);
    for (const int64_t chunk : {int64_t(7), int64_t(64)}) EXPECT_EQ(whole, rows(int8, chunk)) << name_of(type);
  }
}

// Quantisation moves the logits, and not far.
TEST(Int8Model, is_near_the_model_that_was_quantised) {
  ModelConfig c = int8_config();
  const RandomModel int8(c, DType::f32, 2, test_device());
  c.int8_experts = false;
  const RandomModel plain(c, DType::f32, 2, test_device());
  const std::vector<std::byte> have = rows(int8, kTokens), want = rows(plain, kTokens);
  const size_t logits = size_t(kTokens * c.width), count = size_t(kTokens * c.vocab_size);
  const auto *a = reinterpret_cast<const float*>(have.data()) + logits,
             *b = reinterpret_cast<const float*>(want.data()) + logits;
  double gap = 0, size = 0;
  for (size_t i = 0; i < count; ++i) gap += std::pow(double(a[i]) - double(b[i]), 2), size += std::pow(double(b[i]), 2);
  EXPECT_GT(gap, 0);
  EXPECT_LT(std::sqrt(gap / size), 0.02);
}

TEST(Int8Model, twins_agree) {
  if (!test_device().is_cuda()) return;  // a CPU has nothing to be compared with
  const RandomModel m(int8_config(), DType::bf16, 2, test_device());
  Engine engine(m.config, m.weights, {.sequences = 1, .tokens = 40, .limits = {.rows = 30, .chunk = 30}});
  bench::CheckTwins twins(engine.stream(), m.weights, 2);
  Sequence sequence = engine.begin(bench::random_tokens(m.config, 30, 1));
  sequence.new_tokens = 3;
  Sequence* const running[] = {&sequence};
  while (sequence.new_tokens > 0) engine.step(running);
  EXPECT_NO_THROW(twins.judge());
}

}  // namespace
}  // namespace fulgur::tests

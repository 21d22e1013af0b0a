// The published model's numbers: logits, hidden rows, routing and states of the goldens, and our plain f64 forward
// against both (bounds of docs/numerics.md).
#include "tests/golden.h"

#include <gtest/gtest.h>

#include <cmath>

#include "generate/current_state.h"
#include "tests/plain_model.h"

namespace fulgur::tests {
namespace {

constexpr double kLogitBound = 2e-5, kStateBound = 2e-6, kBf16Bound = 2e-2;

double largest_gap(const float* have, const float* want, int64_t n) {
  double gap = 0;
  for (int64_t i = 0; i < n; ++i)
    gap = std::max(gap, std::isfinite(have[i]) ? std::abs(double(have[i]) - double(want[i])) : INFINITY);
  return gap;
}

// Runs documents side by side through the engine, 64 rows of each at a time.
class Documents {
 public:
  Documents(const Golden& golden, const std::vector<std::vector<int32_t>>& documents)
      : golden_(golden),
        engine_(golden.config, golden.loaded.weights,
                {.sequences = int64_t(documents.size()),
                 .tokens = 2000,
                 .traces = true,
                 .threads = 2,
                 .limits = {.rows = 128, .chunk = 64}}) {
    for (const auto& d : documents) {
      rows_.push_back(std::make_unique<EngineRows>(golden.config, int64_t(d.size())));
      sequences_.push_back(engine_.begin(d));
      sequences_.back().trace = &rows_.back()->trace;
    }
    std::vector<Sequence*> running;
    for (Sequence& s : sequences_) running.push_back(&s);
    while (sequences_.front().pending() > 0 || sequences_.back().pending() > 0) engine_.step(running);
  }
  const EngineRows& rows(size_t document = 0) const { return *rows_[document]; }
  std::vector<double> state(int64_t layer) const {
    return current_state(golden_.config, golden_.loaded.weights, engine_.pool(), sequences_.front().state, layer);
  }

 private:
  const Golden& golden_;
  Engine engine_;
  std::vector<std::unique_ptr<EngineRows>> rows_;
  std::vector<Sequence> sequences_;
};

template <class Have>
double relative_gap(const Have& have, const std::vector<float>& want) {
  double gap = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i)
    gap += std::pow(double(have[i]) - double(want[i]), 2), size += std::pow(double(want[i]), 2);
  return std::sqrt(gap / size);
}

void expect_logits(const std::string& name) {
  const Golden golden(name);
  const std::vector<float> want = golden.floats("logits");
  const Documents run(golden, {golden.ints("input_ids")});
  EXPECT_LE(largest_gap(run.rows().logits(0), want.data(), int64_t(want.size())), kLogitBound) << name;
}

TEST(Golden, prenorm) { expect_logits("text01_prenorm"); }
TEST(Golden, heads6) { expect_logits("text01_heads6"); }

TEST(Golden, tiny) {
  const Golden golden("text01_tiny");
  const std::vector<int32_t> ids{50, 44, 54, 39, 42, 30, 17, 57, 55, 55, 33};
  const Documents run(golden, {ids});
  const std::vector<float> logits = golden.floats("logits_remote"), hidden = golden.floats("hidden_remote_4");
  EXPECT_LE(largest_gap(run.rows().logits(0), logits.data(), int64_t(logits.size())), kLogitBound);
  EXPECT_LE(largest_gap(run.rows().hidden(0), hidden.data(), int64_t(hidden.size())), kLogitBound);
  for (const int64_t layer : {0, 1, 3})
    EXPECT_LE(relative_gap(run.state(layer), golden.floats("state_remote_" + std::to_string(layer))), kStateBound);
}

TEST(Golden, small) {
  const Golden golden("text01_small");
  const ModelConfig& c = golden.config;
  const Documents run(golden, {golden.ints("input_ids")});
  const std::vector<float> logits = golden.floats("logits"), hidden = golden.floats("hidden"),
                           weights = golden.floats("weights");
  const std::vector<int32_t> rows = golden.ints("rows"), experts = golden.ints("experts");
  EXPECT_LE(largest_gap(run.rows().logits(0), logits.data(), int64_t(logits.size())), kLogitBound);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_LE(largest_gap(run.rows().hidden(rows[i]), &hidden[i * size_t(c.width)], c.width), kLogitBound);
    for (size_t layer = 0; layer < size_t(c.layers); ++layer) {
      const size_t at = (layer * rows.size() + i) * size_t(c.experts_per_token);
      const Tensor chosen = run.rows().trace.experts[layer].rows(rows[i], rows[i] + 1),
                   weight = run.rows().trace.weights[layer].rows(rows[i], rows[i] + 1);
      for (size_t slot = 0; slot < size_t(c.experts_per_token); ++slot) {
        EXPECT_EQ(chosen.elements<int32_t>()[slot], experts[at + slot]);
        EXPECT_LE(std::abs(double(weight.elements<float>()[slot]) - double(weights[at + slot])), kLogitBound);
      }
    }
  }
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    if (c.attention[size_t(layer)] != AttentionKind::lightning) continue;
    EXPECT_LE(relative_gap(run.state(layer), golden.floats("state_" + std::to_string(layer))), kStateBound) << layer;
  }
}

TEST(Golden, small_packed) {
  const Golden golden("text01_small");
  const std::vector<int32_t> ids = golden.ints("packed_ids");
  const std::vector<float> want = golden.floats("packed_logits");
  const Documents run(golden, {{ids.begin(), ids.begin() + 257}, {ids.begin() + 257, ids.end()}});
  const int64_t vocab = golden.config.vocab_size;
  EXPECT_LE(largest_gap(run.rows(0).logits(0), want.data(), 257 * vocab), kLogitBound);
  EXPECT_LE(largest_gap(run.rows(1).logits(0), want.data() + 257 * vocab, 343 * vocab), kLogitBound);
}

// bf16 may choose other experts where two are close, so its numbers are compared with the choices of f32.
TEST(Golden, small_in_bf16_with_the_routing_imposed) {
  const Golden golden("text01_small");
  const std::vector<int32_t> ids = golden.ints("input_ids");
  const Documents wide_run(golden, {ids});
  const LoadedWeights loaded = load_weights(golden.config, Golden::folder("text01_small"), DType::bf16, test_device());
  EngineRows rows(golden.config, int64_t(ids.size()), DType::bf16);
  rows.trace.experts = wide_run.rows().trace.experts, rows.trace.weights = wide_run.rows().trace.weights;
  rows.trace.imposes_routing = true;
  Engine engine(golden.config, loaded.weights,
                {.sequences = 1, .tokens = int64_t(ids.size()), .traces = true, .threads = 2});
  Sequence sequence = engine.begin(ids);
  sequence.trace = &rows.trace;
  Sequence* const running[] = {&sequence};
  while (sequence.pending() > 0) engine.step(running);
  const double gap = relative_gap(rows.logits(0), golden.floats("logits"));
  EXPECT_LE(gap, kBf16Bound);
  EXPECT_GE(gap, 1e-4) << "bf16 rounds";
  for (const int64_t layer : {0, 1}) {
    const std::vector<double> state =
        current_state(golden.config, loaded.weights, engine.pool(), sequence.state, layer);
    EXPECT_LE(relative_gap(state, golden.floats("state_" + std::to_string(layer))), kBf16Bound) << layer;
  }
}

// The plain forward is independent of every operator; the goldens are independent of both.
TEST(Golden, plain_model_agrees) {
  if (test_device().is_cuda()) return;  // it reads the weights in main memory
  for (const std::string name : {"text01_small", "text01_prenorm", "text01_heads6"}) {
    const Golden golden(name);
    std::vector<int32_t> ids = golden.ints("input_ids");
    ids.resize(std::min<size_t>(ids.size(), 130));
    const std::vector<float> want = golden.floats("logits");
    const Rows logits = PlainModel(golden.config, golden.loaded.weights).forward(ids).logits;
    double gap = 0;
    for (size_t t = 0; t < ids.size(); ++t)
      for (size_t i = 0; i < logits[t].size(); ++i)
        gap = std::max(gap, std::abs(logits[t][i] - double(want[t * logits[t].size() + i])));
    EXPECT_LE(gap, 1e-6) << name;  // the goldens are rounded to f32
  }
}

}  // namespace
}  // namespace fulgur::tests

// Numerical health of a step: its figures against plain sums, equal however the step is cut, no bit of training
// changed, and the name of what is not finite.
#include "train/health.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"
#include "train/metrics.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur::tests {
namespace {

constexpr int64_t kSequence = 192;

PackedRows documents() {
  TokenizedDocuments all;
  for (uint64_t d = 0; d < 9; ++d) {
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < 60 + 20 * d; ++i) tokens.push_back(int32_t(philox(d, i, 4)[0] % 97));
    all.add(tokens);
  }
  return {all, kSequence, 3};
}

RunConfig run_config(int64_t health_every) {
  RunConfig run;
  run.steps = 3, run.sequence = kSequence, run.tokens_per_step = 4 * kSequence, run.micro_rows = 4, run.threads = 2;
  run.lr = 1e-3, run.schedule = Schedule::constant, run.health_every = health_every;
  return run;
}

// A run in memory of its own.
struct Training {
  ModelConfig config = tiny_config();
  RunConfig run;
  TrainingMemory memory;
  Stream stream;
  PackedRows rows = documents();

  explicit Training(const RunConfig& run) : run(run), memory(config, run, 0), stream({}, run.threads) {
    ModelWeights master = views_of(config, memory.state.master);
    initialise(config, master, 1, stream.threads());
    round_master(stream, memory.state);
  }
  StepReport step() {
    Arena scratch = memory.scratch(), tape = memory.tape();
    Exec exec{stream, scratch, tape, config};
    return train_rows(exec, memory.state, run, rows);
  }
  ModelWeights& weights() { return memory.state.weights; }
  std::vector<float> flat() const {
    const Tensor flat = memory.state.master;
    return {flat.elements<float>(), flat.elements<float>() + flat.count()};
  }
};

MetricLine figures(const StepReport& report) {
  MetricLine line;
  add_metrics(line, report.health.value());
  add_layer_metrics(line, report.router);
  return line;
}

double squared(double x) { return x * x; }

// The sum of each head's decayed outer products over the probe's rows, in f64 from the embedding's rows on.
double state_rms_of_first_layer(Training& t, const PackedRow& row, StateProbe probe) {
  const ModelConfig& c = t.config;
  const LayerWeights& layer = t.weights().layers[0];
  const auto& w = std::get<LightningWeights>(layer.attention);
  const float *table = t.weights().embedding.values.elements<float>(), *norm = layer.attention_norm.elements<float>(),
              *qkv = w.qkv.values.elements<float>();
  double squares = 0;
  for (int64_t head = 0; head < c.heads; ++head) {
    std::vector<double> state(size_t(c.head_dim * c.head_dim));
    for (int64_t r = probe.begin; r < probe.end; ++r) {
      const float* x = table + row.tokens[size_t(r)] * c.width;
      double mean = 0;
      for (int64_t i = 0; i < c.width; ++i) mean += squared(x[i]) / double(c.width);
      const auto projected = [&](int64_t part, int64_t dim) {
        const float* weight = qkv + ((head * 3 + part) * c.head_dim + dim) * c.width;
        double sum = 0;
        for (int64_t i = 0; i < c.width; ++i) sum += weight[i] * x[i] * norm[i] / std::sqrt(mean + c.norm_eps);
        return sum / (1 + std::exp(-sum));
      };
      const double decay = std::exp(-double(w.decay.elements<float>()[head]));
      for (int64_t k = 0; k < c.head_dim; ++k)
        for (int64_t v = 0; v < c.head_dim; ++v) {
          double& s = state[size_t(k * c.head_dim + v)];
          s = s * decay + projected(1, k) * projected(2, v);
        }
    }
    for (const double s : state) squares += s * s;
  }
  return std::sqrt(squares / double(c.heads * c.head_dim * c.head_dim));
}

TEST(Health, is_what_plain_sums_say) {
  Training t(run_config(1));
  std::vector<PackedRow> rows;
  for (int64_t r = 0; r < 4; ++r) rows.push_back(t.rows.row(r));
  double embedded = 0;
  const float* table = t.weights().embedding.values.elements<float>();
  for (const PackedRow& row : rows)
    for (const int32_t token : row.tokens)
      for (int64_t i = 0; i < t.config.width; ++i) embedded += squared(table[token * t.config.width + i]);
  const StateProbe probe = longest_sequence(rows[0].begin, kSequence);
  ASSERT_GE(probe.end - probe.begin, 64);
  const double state = state_rms_of_first_layer(t, rows[0], probe);

  const StepReport report = t.step();
  const Health& health = report.health.value();
  ASSERT_EQ(health.residual_rms.size(), 5u);
  EXPECT_NEAR(health.residual_rms[0], std::sqrt(embedded / double(4 * kSequence * t.config.width)), 1e-9);
  EXPECT_NEAR(health.state_rms[0], state, 1e-5 * state);
  EXPECT_TRUE(std::isnan(health.state_rms[1])) << "a softmax layer has none";
  EXPECT_GT(health.residual_rms[4], 0);
  EXPECT_GT(health.largest_logit, 0);
  EXPECT_LT(health.largest_logit, 20);
  const double all = std::sqrt(squared(health.embedding) + squared(health.attention) + squared(health.experts) +
                               squared(health.router) + squared(health.norms) + squared(health.head));
  EXPECT_NEAR(all, report.gradient_norm, 1e-9 * all);
  EXPECT_EQ(health.not_finite, "");
}

TEST(Health, is_the_same_however_a_step_is_cut) {
  RunConfig run = run_config(2);
  Training first(run);
  EXPECT_FALSE(first.step().health) << "measured at every second step alone";
  const MetricLine want = figures(first.step());
  for (const bool recompute : {false, true})
    for (const int64_t micro_rows : {1, 2}) {
      run.recompute = recompute, run.micro_rows = micro_rows, run.threads = 1;
      Training t(run);
      t.step();
      EXPECT_EQ(figures(t.step()), want) << "recompute " << recompute << ", micro rows " << micro_rows;
    }
}

TEST(Health, changes_no_bit_of_training) {
  for (const DType type : {DType::f32, DType::bf16}) {
    std::vector<std::vector<float>> weights;
    for (const int64_t every : {0, 1}) {
      RunConfig run = run_config(every);
      run.dtype = type;
      Training t(run);
      for (int i = 0; i < 3; ++i) t.step();
      weights.push_back(t.flat());
    }
    EXPECT_EQ(weights[0], weights[1]) << name_of(type);
  }
}

// Where a step that is not finite breaks, whether health was measured or not.
std::string where_it_diverges(int64_t health_every, const std::function<void(ModelWeights&)>& spoil) {
  Training t(run_config(health_every));
  spoil(t.weights());
  const std::vector<float> before = t.flat();
  std::string where = "nowhere";
  try {
    t.step();
  } catch (const Diverged& diverged) {
    where = diverged.where();
    EXPECT_NE(std::string(diverged.what()).find(where), std::string::npos) << diverged.what();
  }
  EXPECT_TRUE(std::equal(before.begin(), before.end(), t.flat().begin(), [](float a, float b) {
    return a == b || (std::isnan(a) && std::isnan(b));
  })) << "it has changed no weight";
  return where;
}

void fill(Tensor tensor, float value) {
  std::fill(tensor.elements<float>(), tensor.elements<float>() + tensor.count(), value);
}

TEST(Health, names_what_is_not_finite) {
  for (const int64_t every : {0, 1}) {
    EXPECT_EQ(
        where_it_diverges(every, [](ModelWeights& w) { w.layers[2].moe.up.values.at(0).elements<float>()[7] = NAN; }),
        "parameter model.layers.2.block_sparse_moe.experts.0.w3.weight");
    EXPECT_EQ(where_it_diverges(every, [](ModelWeights& w) { fill(w.layers[2].moe_norm, 3e38f); }),
              "the rows that leave layer 2");
    EXPECT_EQ(where_it_diverges(every, [](ModelWeights& w) { fill(w.final_norm, 3e38f); }), "the logits");
  }
}

TEST(Health, probes_the_longest_sequence_in_whole_blocks) {
  const auto probe = [](const std::vector<int32_t>& begin, int64_t rows) {
    const StateProbe p = longest_sequence(begin, rows);
    return std::pair(p.begin, p.end);
  };
  EXPECT_EQ(probe({0}, 63), (std::pair<int64_t, int64_t>(0, 0)));
  EXPECT_EQ(probe({0, 30}, 94), (std::pair<int64_t, int64_t>(30, 94)));
  EXPECT_EQ(probe({0, 150, 350}, 400), (std::pair<int64_t, int64_t>(150, 342)));
}

}  // namespace
}  // namespace fulgur::tests

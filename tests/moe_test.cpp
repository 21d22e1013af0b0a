// Training's mixture of experts: which choices a capacity drops, what a dropped choice does, the routers' losses and
// statistics, and their gradient through the whole model.
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "tests/one_step.h"
#include "tests/plain_model.h"
#include "tests/tiny_model.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur::tests {
namespace {

constexpr int64_t kSequence = 64, kRows = 4, kWindow = 32;

std::vector<int32_t> draw(uint64_t seed, int64_t n) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(philox(seed, uint64_t(i), 4)[0] % 97));
  return tokens;
}

PackedRows documents() {
  TokenizedDocuments all;
  for (uint64_t d = 0; d < 9; ++d) all.add(draw(d, 10 + 11 * int64_t(d)));
  return {all, kSequence, 3};
}

Tensor imposed(std::vector<int32_t>& values, int64_t rows, int64_t k) {
  return contiguous(reinterpret_cast<std::byte*>(values.data()), DType::i32, {}, {rows, k});
}

// What a training forward kept of its routers.
struct Routing {
  std::vector<std::vector<int32_t>> experts, place;  // [layers][rows * k]
  std::vector<std::vector<double>> probabilities;    // [layers][rows * experts]
  double squares = 0;                                // of log-sum-exp, over rows and layers
  Rows hidden;
};

// Forward of all rows, micro_rows at a time; windows of whole multiples of a row.
template <class T>
Routing routing_of(const TinyModel& m, const std::vector<PackedRow>& rows, size_t micro_rows, int threads,
                   int64_t window, int64_t capacity) {
  const Buffer memory(size_t(64) << 20, Purpose::activations), tape_memory(size_t(64) << 20, Purpose::activations);
  Stream stream({}, threads);
  const size_t layers = size_t(m.config.layers);
  Routing routing{std::vector<std::vector<int32_t>>(layers),
                  std::vector<std::vector<int32_t>>(layers),
                  std::vector<std::vector<double>>(layers),
                  0,
                  {}};
  for (size_t first = 0; first < rows.size(); first += micro_rows) {
    Arena scratch(memory.data(), memory.bytes(), {}), tape(tape_memory.data(), tape_memory.bytes(), {});
    Exec exec{stream, scratch, tape, m.config};
    Batch batch = micro_batch_of(exec, std::span(rows).subspan(first, micro_rows)).batch;
    batch.window = window, batch.capacity = capacity;
    Saved saved;
    const Tensor hidden = forward(exec, m.weights, batch, &saved);
    for (size_t layer = 0; layer < layers; ++layer) {
      const MoeSaved& moe = saved.layers[layer].moe;
      const auto append = [](auto& to, const auto* from, int64_t count) { to.insert(to.end(), from, from + count); };
      append(routing.experts[layer], moe.expert_ids.elements<int32_t>(), moe.expert_ids.count());
      append(routing.place[layer], moe.place.elements<int32_t>(), moe.place.count());
      for (int64_t row = 0; row < batch.rows(); ++row)
        routing.squares += std::pow(double(moe.log_sum_exp.elements<T>()[row]), 2);
      append(routing.probabilities[layer], moe.probabilities.elements<T>(), moe.probabilities.count());
    }
    for (int64_t row = 0; row < hidden.dim(0); ++row)
      routing.hidden.emplace_back(hidden.elements<T>() + row * hidden.dim(1),
                                  hidden.elements<T>() + (row + 1) * hidden.dim(1));
  }
  return routing;
}

std::vector<std::vector<bool>> dropped(const Routing& routing) {
  std::vector<std::vector<bool>> all;
  for (const auto& layer : routing.place) {
    all.emplace_back();
    for (const int32_t at : layer) all.back().push_back(at < 0);
  }
  return all;
}

double rate(const std::vector<std::vector<bool>>& dropped) {
  double ones = 0, all = 0;
  for (const auto& layer : dropped)
    ones += double(std::count(layer.begin(), layer.end(), true)), all += double(layer.size());
  return ones / all;
}

// By the definition, one token after the other.
std::vector<std::vector<bool>> dropped_by_definition(const Routing& routing, int64_t window, int64_t k,
                                                     int64_t capacity) {
  std::vector<std::vector<bool>> all;
  for (const auto& experts : routing.experts) {
    all.emplace_back();
    std::map<int32_t, int64_t> taken;
    for (size_t i = 0; i < experts.size(); ++i) {
      if (int64_t(i) % (window * k) == 0) taken.clear();
      all.back().push_back(taken[experts[i]] >= capacity);
      if (!all.back().back()) ++taken[experts[i]];
    }
  }
  return all;
}

TEST(Capacity, is_a_share_of_the_window_rounded_up_to_eight) {
  ModelConfig c = tiny_config();
  EXPECT_EQ(expert_capacity(c, 32, 0), 0);
  EXPECT_EQ(expert_capacity(c, 32, 1), 16);          // 12.8
  EXPECT_EQ(expert_capacity(c, 32, 1.25), 16);       // 16
  EXPECT_EQ(expert_capacity(c, 32, 1.2500001), 24);  // a little more than 16
  EXPECT_EQ(expert_capacity(c, 32, 0.001), 8);
  c.experts = 16;
  EXPECT_EQ(expert_capacity(c, 4096, 1.25), 640);  // bench-1b
}

TEST(Capacity, drops_do_not_depend_on_micro_batches_or_threads) {
  const TinyModel m(tiny_config(), DType::f32, 1);
  PackedRows packed = documents();
  std::vector<PackedRow> rows;
  for (int64_t i = 0; i < kRows; ++i) rows.push_back(packed.row(i));
  for (const auto& [window, capacity] : {std::pair{int64_t(16), int64_t(7)}, {kWindow, 13}, {2 * kSequence, 50}}) {
    const Routing one = routing_of<float>(m, rows, kRows, 1, window, capacity);
    const auto want = dropped(one);
    std::printf("windows of %lld tokens: %.1f %% of the choices are dropped\n", static_cast<long long>(window),
                100 * rate(want));
    EXPECT_GT(rate(want), 0.05);
    EXPECT_LT(rate(want), 0.3);
    EXPECT_EQ(want, dropped_by_definition(one, window, 2, capacity));
    for (const size_t micro_rows : {size_t(1), size_t(2), size_t(4)})
      for (const int threads : {1, 2}) {
        if (int64_t(micro_rows) * kSequence < window) continue;
        const Routing other = routing_of<float>(m, rows, micro_rows, threads, window, capacity);
        EXPECT_EQ(dropped(other), want) << micro_rows << " rows at a time, " << threads << " threads";
        EXPECT_EQ(other.hidden, one.hidden);
      }
  }
}

TEST(Capacity, inference_drops_nothing) {
  const TinyModel m(tiny_config(), DType::f64, 2);
  const std::vector<int32_t> ids = draw(7, 60);
  const std::vector<PackedRow> rows{row_of({ids})};
  const Rows want = PlainModel(m.config, m.weights).forward(ids).hidden;  // every expert on every token
  Stream stream({}, 2);
  const Buffer memory(size_t(32) << 20, Purpose::activations);
  Arena scratch(memory.data(), memory.bytes(), {}), tape(nullptr, 0, {});
  Exec exec{stream, scratch, tape, m.config};
  const Tensor hidden = forward(exec, m.weights, micro_batch_of(exec, rows).batch);
  const Routing training = routing_of<double>(m, rows, 1, 1, 60, 24);
  EXPECT_GT(rate(dropped(training)), 0);
  double gap = 0, dropping = 0;
  for (size_t row = 0; row < want.size(); ++row)
    for (size_t c = 0; c < want[row].size(); ++c) {
      gap = std::max(gap, std::abs(hidden.elements<double>()[row * want[row].size() + c] - want[row][c]));
      dropping = std::max(dropping, std::abs(training.hidden[row][c] - want[row][c]));
    }
  EXPECT_LT(gap, 1e-6);
  EXPECT_GT(dropping, 1e-2);
}

// y of one expert, in plain loops.
Vector expert_output(const MoeWeights& w, int64_t expert, const double* x, int64_t width, int64_t expert_width) {
  const double *gate = w.gate.values.at(expert).elements<double>(), *up = w.up.values.at(expert).elements<double>();
  const double* down = w.down.values.at(expert).elements<double>();
  Vector y(static_cast<size_t>(width));
  for (int64_t i = 0; i < expert_width; ++i) {
    double g = 0, u = 0;
    for (int64_t c = 0; c < width; ++c) g += gate[i * width + c] * x[c], u += up[i * width + c] * x[c];
    for (int64_t c = 0; c < width; ++c) y[size_t(c)] += down[c * expert_width + i] * (g / (1 + std::exp(-g)) * u);
  }
  return y;
}

// Six rows, an expert takes two: by hand, row 2 loses expert 0, row 3 expert 1, row 4 both, row 5 nothing.
TEST(Capacity, a_dropped_choice_adds_nothing_and_the_other_weight_stays) {
  const TinyModel m(tiny_config(), DType::f64, 3);
  std::vector<int32_t> ids{0, 1, 1, 0, 0, 2, 3, 1, 1, 0, 2, 4};
  const std::vector<bool> kept{true, true, true, true, false, true, true, false, false, false, true, true};
  std::vector<double> weights, x;
  for (int row = 0; row < 6; ++row) weights.push_back(0.6 + 0.05 * row), weights.push_back(0.4 - 0.05 * row);
  for (uint64_t i = 0; i < 6 * 32; ++i) x.push_back(2 * unit_interval(philox(1, i, 0)[0]) - 1);
  const auto rows_of = [](std::vector<double>& values, int64_t columns) {
    return contiguous(reinterpret_cast<std::byte*>(values.data()), DType::f64, {}, {6, columns});
  };
  const Tensor experts = imposed(ids, 6, 2), imposed_weights = rows_of(weights, 2);
  const Batch batch{.tokens = experts.rows(0, 6),
                    .positions = {},
                    .row_begin = {},
                    .routing = Batch::Routing::imposed,
                    .experts = {&experts, 1},
                    .weights = {&imposed_weights, 1},
                    .window = 6,
                    .capacity = 2};
  Stream stream;
  const Buffer memory(size_t(1) << 20, Purpose::activations);
  Arena scratch(memory.data(), memory.bytes(), {}), tape(nullptr, 0, {});
  Exec exec{stream, scratch, tape, m.config};
  const MoeWeights& w = m.weights.layers[0].moe;
  const BranchOutput branch = moe_forward(exec, w, 0, batch, rows_of(x, 32), nullptr);
  const auto y = [&](size_t row, size_t column) {
    double sum = 0;
    for (size_t choice = 2 * row; choice < 2 * row + 2; ++choice)
      if (const int32_t from = branch.place.elements<int32_t>()[choice]; from >= 0)
        sum += branch.expert_weights.elements<double>()[choice] *
               branch.rows.elements<double>()[size_t(from) * 32 + column];
    return sum;
  };
  for (size_t row = 0; row < 6; ++row) {
    Vector want(32);
    for (size_t choice = 2 * row; choice < 2 * row + 2; ++choice) {
      if (!kept[choice]) continue;
      const Vector one = expert_output(w, ids[choice], &x[row * 32], 32, m.config.expert_width);
      for (size_t c = 0; c < 32; ++c) want[c] += weights[choice] * one[c];
    }
    for (size_t c = 0; c < 32; ++c) EXPECT_NEAR(y(row, c), want[c], 1e-14) << row;
  }
}

// Along a random direction of every tensor and the routers' own gradient: the loss of the tokens, the auxiliary loss in
// a form, the z-loss, all with drops that no step of the difference changes.
void expect_central_differences(bool pooled) {
  ModelConfig c = tiny_config();
  c.layers = 2, c.attention.resize(2);
  TinyModel m(c, DType::f64, 5);
  const PackedRow row = row_of({draw(1, 33), draw(2, 7)});
  const int64_t window = 20, capacity = 8;
  const Balance balance{.window = window, .capacity = capacity, .scale = 0.02, .pooled = pooled, .z_scale = 0.001};
  const Routing routing = routing_of<double>(m, {row}, 1, 1, window, capacity);
  const double drop_rate = rate(dropped(routing)), h = 1e-5;
  std::printf("%.1f %% of the choices are dropped\n", 100 * drop_rate);
  EXPECT_TRUE(drop_rate > 0.05 && drop_rate < 0.3);
  const OneStep<double> step(c, m.weights, row, balance);
  EXPECT_GT(step.balance_loss, 0);
  EXPECT_GT(step.z_loss, 0);
  for (size_t i = 0; i < m.weights.parameters.size(); ++i) {
    const Parameter& p = m.weights.parameters[i];
    const size_t n = size_t(p.view.count());
    double *value = p.view.elements<double>(), length = 0, slope = 0;
    const double* gradient = step.grads.parameters[i].view.elements<double>();
    std::vector<double> direction(n);
    for (size_t e = 0; e < n; ++e)
      direction[e] = p.kind == ParameterKind::router ? gradient[e] : philox(e, i, 2)[0] % 2 ? 1 : -1;
    for (const double d : direction) length += d * d;
    for (double& d : direction) d /= std::sqrt(length);
    for (size_t e = 0; e < n; ++e) slope += direction[e] * gradient[e];
    const std::vector<double> kept(value, value + n);
    const auto loss_at = [&](double by) {
      for (size_t e = 0; e < n; ++e) value[e] = kept[e] + by * direction[e];
      EXPECT_EQ(routing_of<double>(m, {row}, 1, 1, window, capacity).experts, routing.experts) << "away from ties";
      const OneStep<double> there(c, m.weights, row, balance);
      return there.loss + there.balance_loss + there.z_loss;
    };
    EXPECT_NEAR((loss_at(h) - loss_at(-h)) / (2 * h), slope, 1e-6 * std::abs(slope) + 3e-9) << p.checkpoint_name;
    std::copy(kept.begin(), kept.end(), value);
  }
}

TEST(Gradient, central_differences_with_drops_form_report) { expect_central_differences(false); }
TEST(Gradient, central_differences_with_drops_form_transformers) { expect_central_differences(true); }

ModelConfig ten_experts() {  // of which each takes 8 choices of a window, 6.4 at balance
  ModelConfig c = tiny_config();
  c.experts = 10;
  return c;
}

// A run in memory of its own.
struct Training {
  ModelConfig config = ten_experts();
  RunConfig run;
  std::unique_ptr<TrainingMemory> memory;
  Stream stream;
  PackedRows rows = documents();

  explicit Training(const RunConfig& run) : run(run), stream({}, run.threads) {
    memory = std::make_unique<TrainingMemory>(config, run, 0);
    ModelWeights master = views_of(config, memory->state.master);
    initialise(config, master, 1, stream.threads());
    round_master(stream, memory->state);
  }
  StepReport step() {
    Arena scratch = memory->scratch(), tape = memory->tape();
    Exec exec{stream, scratch, tape, config};
    return train_rows(exec, memory->state, run, rows);
  }
};

RunConfig run_config(AuxForm form, DType type) {
  RunConfig run;
  run.steps = 3, run.sequence = kSequence, run.tokens_per_step = kRows * kSequence, run.micro_rows = kRows;
  run.lr = 1e-3, run.schedule = Schedule::constant, run.dtype = type, run.threads = 1;
  run.capacity = 1.2, run.window = kWindow, run.aux_form = form, run.aux = 0.3, run.z = 0.02;
  return run;
}

// Of three steps, and the weights after them.
std::vector<double> numbers(const RunConfig& run) {
  Training t(run);
  std::vector<double> all;
  for (int64_t step = 0; step < run.steps; ++step) {
    const StepReport report = t.step();
    std::vector<std::pair<std::string, double>> metrics{{"loss", report.loss}, {"norm", report.gradient_norm}};
    add_metrics(metrics, report.router);
    for (const auto& [key, value] : metrics) all.push_back(value);
    EXPECT_TRUE(report.router.drop_rate > 0.05 && report.router.drop_rate < 0.3) << report.router.drop_rate;
  }
  const Tensor flat = t.memory->state.master;
  all.insert(all.end(), flat.elements<float>(), flat.elements<float>() + flat.count());
  return all;
}

class TrainMoe : public testing::TestWithParam<DType> {};

TEST_P(TrainMoe, numbers_do_not_depend_on_micro_batches_threads_or_recomputation) {
  RunConfig run = run_config(AuxForm::transformers, GetParam());
  const std::vector<double> want = numbers(run);
  for (const bool recompute : {false, true})
    for (const int64_t micro_rows : {1, 2, 4}) {
      run.recompute = recompute, run.micro_rows = micro_rows, run.threads = 2;
      EXPECT_EQ(numbers(run), want) << "recompute " << recompute << ", micro rows " << micro_rows;
    }
}

TEST_P(TrainMoe, lanes_are_cut_into_any_micro_batches) {
  RunConfig run = run_config(AuxForm::report, GetParam());
  run.lanes = 2, run.micro_rows = 2;
  const std::vector<double> want = numbers(run);
  run.micro_rows = 1, run.threads = 2;
  EXPECT_EQ(numbers(run), want);
}

INSTANTIATE_TEST_SUITE_P(Types, TrainMoe, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// Losses and statistics of a step, counted plainly from what a forward of the same rows chose.
TEST(RouterReport, counts_what_the_routers_did) {
  constexpr int64_t kExperts = 10, kWindows = kRows * kSequence / kWindow, kCapacity = 8;
  const TinyModel m(ten_experts(), DType::f32, 1);
  PackedRows packed = documents();
  std::vector<PackedRow> rows;
  for (int64_t i = 0; i < kRows; ++i) rows.push_back(packed.row(i));
  const Routing r = routing_of<float>(m, rows, 1, 1, kWindow, kCapacity);
  const double layers = double(m.config.layers), tokens = kRows * kSequence, windows = kWindows;
  double report_loss = 0, transformers_loss = 0, entropy = 0;
  std::vector<double> load(kExperts), by_position(8);
  double most = 0;
  for (int64_t w = 0; w < kWindows; ++w) {
    std::vector<double> all_f(kExperts), all_m(kExperts);
    for (size_t layer = 0; layer < r.experts.size(); ++layer) {
      std::vector<double> f(kExperts), p(kExperts);
      for (int64_t i = w * kWindow * 2; i < (w + 1) * kWindow * 2; ++i) f[size_t(r.experts[layer][size_t(i)])] += 1;
      for (int64_t i = w * kWindow * kExperts; i < (w + 1) * kWindow * kExperts; ++i) {
        const double probability = r.probabilities[layer][size_t(i)];
        p[size_t(i % kExperts)] += probability, entropy -= probability * std::log(probability) / tokens / layers;
      }
      for (size_t e = 0; e < kExperts; ++e) {
        report_loss += 0.3 / kExperts * (f[e] / kWindow) * (p[e] / kWindow) / windows;
        all_f[e] += f[e] / (kWindow * layers), all_m[e] += p[e] / (kWindow * layers), load[e] += f[e];
      }
    }
    for (size_t e = 0; e < kExperts; ++e) transformers_loss += 0.3 * kExperts * all_f[e] * all_m[e] / windows;
  }
  const auto drops = dropped(r);
  for (size_t layer = 0; layer < drops.size(); ++layer) {
    for (size_t i = 0; i < drops[layer].size(); ++i)
      by_position[i / 2 % kWindow / (kWindow / 8)] += drops[layer][i] / (tokens * 2 / 8 * layers);
    for (int32_t e = 0; e < kExperts; ++e)
      most = std::max(most, double(std::count(r.experts[layer].begin(), r.experts[layer].end(), e)));
  }
  for (const AuxForm form : {AuxForm::report, AuxForm::transformers}) {
    const RouterReport have = Training(run_config(form, DType::f32)).step().router;
    EXPECT_NEAR(have.balance_loss / (form == AuxForm::report ? report_loss : transformers_loss), 1, 1e-6);
    EXPECT_NEAR(have.entropy, entropy, 1e-6);
    EXPECT_NEAR(have.entropy_normalised, entropy / std::log(10.0), 1e-6);
    EXPECT_NEAR(have.drop_rate, rate(drops), 1e-12);
    EXPECT_NEAR(have.load_max, most / (tokens * 2 / kExperts), 1e-12);
    for (size_t part = 0; part < 8; ++part) EXPECT_NEAR(have.drop_rate_by_position[part], by_position[part], 1e-12);
    for (size_t e = 0; e < kExperts; ++e) EXPECT_NEAR(have.load[e], load[e] / (tokens * 2 * layers / kExperts), 1e-12);
    EXPECT_NEAR(have.z_loss / (0.02 * r.squares / tokens), 1, 1e-12);
  }
  EXPECT_GT(by_position[7], by_position[4]);
  EXPECT_EQ(by_position[0], 0);
}

}  // namespace
}  // namespace fulgur::tests

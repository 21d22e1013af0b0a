// The training step around the model: schedules, configuration, validation in bits per byte, lanes, divergence,
// checkpoints, metrics.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numbers>

#include "base/random.h"
#include "tests/plain_model.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"
#include "train/checkpoint_writer.h"
#include "train/metrics.h"
#include "train/train_rows.h"
#include "train/trainer.h"
#include "train/training_memory.h"
#include "train/validate.h"

namespace fulgur::tests {
namespace {

TEST(LearningRate, schedules) {
  RunConfig run;
  run.steps = 100, run.lr = 1, run.warmup = 10, run.decay = 90, run.final_lr = 0.1;
  run.schedule = Schedule::cosine;
  EXPECT_DOUBLE_EQ(learning_rate(run, 1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(run, 10), 1);
  EXPECT_NEAR(learning_rate(run, 55), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(run, 100), 0.1, 1e-12);
  run.final_lr = 0.25;
  EXPECT_NEAR(learning_rate(run, 55), 0.625, 1e-12);
  EXPECT_NEAR(learning_rate(run, 100), 0.25, 1e-12);
  run.schedule = Schedule::wsd, run.decay = 9, run.final_lr = 0;
  EXPECT_DOUBLE_EQ(learning_rate(run, 91), 1);
  EXPECT_DOUBLE_EQ(learning_rate(run, 92), 0.9);
  EXPECT_DOUBLE_EQ(learning_rate(run, 100), 0.1);
  run.final_lr = 0.5;
  EXPECT_DOUBLE_EQ(learning_rate(run, 100), 0.55);
  run.schedule = Schedule::constant;
  EXPECT_DOUBLE_EQ(learning_rate(run, 100), 1);
}

// The report's: 500 steps to 2e-4, constant, exponential to 3e-5.
TEST(LearningRate, exponential_at_its_borders) {
  RunConfig run;
  run.steps = 1000, run.lr = 2e-4, run.warmup = 500, run.decay = 100, run.final_lr = 3e-5;
  run.schedule = Schedule::exponential;
  EXPECT_DOUBLE_EQ(learning_rate(run, 1), 4e-7);
  EXPECT_DOUBLE_EQ(learning_rate(run, 500), 2e-4);
  EXPECT_DOUBLE_EQ(learning_rate(run, 501), 2e-4);
  EXPECT_DOUBLE_EQ(learning_rate(run, 900), 2e-4);
  EXPECT_NEAR(learning_rate(run, 901), 2e-4 * std::pow(0.15, 0.01), 1e-18);
  EXPECT_NEAR(learning_rate(run, 950), std::sqrt(2e-4 * 3e-5), 1e-18);
  EXPECT_DOUBLE_EQ(learning_rate(run, 1000), 3e-5);
  run.decay = 0;
  EXPECT_DOUBLE_EQ(learning_rate(run, 1000), 2e-4);
}

TEST(RunConfig, reads_overrides_and_writes_what_it_resolved) {
  const Scratch scratch;
  const std::string tiny = std::string(FULGUR_SOURCE) + "/configs/tiny.toml";
  const RunConfig run =
      read_run_config(tiny, {"run.dir=x/y", "train.steps=7", "train.lr=0.5",
                             "data.train=[{path = \"a.txt\", weight = 3}, \"b.txt\"]", "model.vocab_size=600"});
  EXPECT_EQ(run.run_dir, "x/y");
  EXPECT_EQ(run.steps, 7);
  EXPECT_EQ(run.lr, 0.5);
  ASSERT_EQ(run.train_files.size(), 2u);
  EXPECT_EQ(run.train_files[0].times, 3);
  EXPECT_EQ(run.train_files[1].path, "b.txt");
  EXPECT_NE(run.model_json.find("\"vocab_size\": 600"), std::string::npos);
  spill(scratch / "again.toml", run.resolved);
  const RunConfig again = read_run_config(scratch / "again.toml", {});
  EXPECT_EQ(again.resolved, run.resolved);
  EXPECT_EQ(again.model_json, run.model_json);
  for (const char* name : {"demo", "bench-1b", "minimax-text-01"})
    read_run_config(std::string(FULGUR_SOURCE) + "/configs/" + name + ".toml", {});
}

TEST(RunConfig, reads_how_experts_are_trained) {
  const std::string tiny = std::string(FULGUR_SOURCE) + "/configs/tiny.toml";
  const RunConfig run = read_run_config(tiny, {});
  EXPECT_TRUE(run.capacity == 0 && run.window == 0 && run.aux_form == AuxForm::report && run.aux == 0.01 && run.z == 0);
  const RunConfig other =
      read_run_config(tiny, {"moe.capacity=1.25", "moe.window=128", "moe.aux_form=transformers", "moe.z=0.001"});
  EXPECT_TRUE(other.capacity == 1.25 && other.window == 128 && other.aux_form == AuxForm::transformers);
  EXPECT_TRUE(other.aux == 0.001 && other.z == 0.001);
  EXPECT_EQ(read_run_config(tiny, {"moe.aux_form=transformers", "moe.aux=0.5", "moe.capacity=2"}).aux, 0.5);
}

TEST(RunConfig, refusals_name_the_key) {
  const std::string tiny = std::string(FULGUR_SOURCE) + "/configs/tiny.toml";
  const auto refused = [&](ErrorKind kind, const std::string& setting, const std::vector<std::string>& words) {
    expect_error(kind, words, [&] { read_run_config(tiny, {setting}); });
  };
  refused(ErrorKind::invalid_input, "train.warm_up=3", {"train.warm_up", "train.warmup"});
  refused(ErrorKind::invalid_input, "trian.lr=3", {"trian", "train"});
  refused(ErrorKind::invalid_input, "train.lr=0", {"train.lr"});
  refused(ErrorKind::invalid_input, "train.lr=nan", {"train.lr"});
  refused(ErrorKind::invalid_input, "train.steps=0", {"train.steps", "1"});
  refused(ErrorKind::invalid_input, "train.steps=1.5", {"train.steps", "integer"});
  refused(ErrorKind::invalid_input, "train.schedule=sine", {"train.schedule", "cosine"});
  refused(ErrorKind::invalid_input, "train.final_lr=0.009", {"train.final_lr", "0.008"});
  expect_error(ErrorKind::invalid_input, {"train.final_lr", "constant"}, [&] {
    read_run_config(tiny, {"train.schedule=constant", "train.final_lr=0.001"});
  });
  expect_error(ErrorKind::invalid_input, {"train.final_lr", "above 0"}, [&] {
    read_run_config(tiny, {"train.schedule=exponential", "train.final_lr=0"});
  });
  expect_error(ErrorKind::invalid_input, {"train.decay = 36", "35"}, [&] {
    read_run_config(tiny, {"train.schedule=exponential", "train.decay=36"});
  });
  refused(ErrorKind::invalid_input, "train.tokens_per_step=1000", {"train.tokens_per_step", "256"});
  refused(ErrorKind::invalid_input, "parallel.lanes=3", {"parallel.lanes", "power of two"});
  refused(ErrorKind::invalid_input, "moe.window=100", {"moe.window", "512"});
  refused(ErrorKind::invalid_input, "data.train=[3]", {"data.train"});
  refused(ErrorKind::invalid_input, "steps", {"steps"});
  refused(ErrorKind::invalid_input, "moe.window=1024", {"moe.window", "divisor of the 512 tokens"});
  refused(ErrorKind::invalid_input, "moe.capacity=-1", {"moe.capacity", "0 to 100"});
  refused(ErrorKind::invalid_input, "moe.capacity=101", {"moe.capacity", "0 to 100"});
  refused(ErrorKind::invalid_input, "moe.capacity=some", {"moe.capacity", "a number"});
  refused(ErrorKind::invalid_input, "moe.aux_form=gshard", {"moe.aux_form", "report, transformers"});
  refused(ErrorKind::invalid_input, "moe.z=-1", {"moe.z"});
  refused(ErrorKind::invalid_input, "moe.drop=true", {"moe.drop"});
  refused(ErrorKind::invalid_input, "train.recompute=1", {"train.recompute", "true or false"});
  refused(ErrorKind::invalid_input, "train.dtype=f16", {"train.dtype", "f32, bf16"});
  const Scratch scratch;
  spill(scratch / "bad.toml", "[model]\nvocab_size = \n");
  expect_error(ErrorKind::invalid_input, {"bad.toml:2"}, [&] { read_run_config(scratch / "bad.toml", {}); });
}

std::vector<int32_t> draw(uint64_t seed, int64_t n) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(philox(seed, uint64_t(i), 4)[0] % 97));
  return tokens;
}

TEST(Validation, is_every_documents_own_nats_over_all_bytes) {
  const TinyModel m(tiny_config(), DType::f32, 2);
  Corpus corpus;
  double nats = 0;
  for (const int64_t n : {2, 40, 131, 5}) {
    const std::vector<int32_t> tokens = draw(uint64_t(n), n);
    corpus.documents.add(tokens);
    nats += PlainModel(m.config, m.weights).loss(tokens) * double(n - 1);
  }
  corpus.bytes = 321;
  const Buffer memory(size_t(64) << 20, Purpose::activations);
  Arena scratch(memory.data(), memory.bytes(), {}), tape(nullptr, 0, {});
  Stream stream({}, 2);
  Exec exec{stream, scratch, tape, m.config};
  EXPECT_NEAR(bits_per_byte(exec, m.weights, corpus).value(), nats / std::numbers::ln2 / 321, 1e-6);
  const std::atomic<bool> stop{true};
  EXPECT_FALSE(bits_per_byte(exec, m.weights, corpus, &stop));
}

// A run in memory of its own.
struct Training {
  ModelConfig config = tiny_config();
  RunConfig run;
  std::unique_ptr<TrainingMemory> memory;
  Stream stream{{}, 2};

  explicit Training(int64_t lanes, int64_t micro_rows, double lr = 1e-3) {
    run.steps = 3, run.sequence = 32, run.tokens_per_step = 8 * 32, run.micro_rows = micro_rows, run.lanes = lanes,
    run.lr = lr;
    run.schedule = Schedule::constant;
    memory = std::make_unique<TrainingMemory>(config, run, 0);
    initialise(config, memory->state.weights, 1, stream.threads());
  }
  StepReport step(PackedRows& rows) {
    Arena scratch = memory->scratch(), tape = memory->tape();
    Exec exec{stream, scratch, tape, config};
    return train_rows(exec, memory->state, run, rows);
  }
  std::vector<float> weights() const {
    const Tensor flat = memory->state.weights.flat;
    return {flat.elements<float>(), flat.elements<float>() + flat.count()};
  }
};

PackedRows documents() {
  TokenizedDocuments all;
  for (uint64_t d = 0; d < 9; ++d) all.add(draw(d, 10 + 11 * int64_t(d)));
  return {all, 32, 3};
}

TEST(TrainStep, lanes_are_summed_pairwise_and_alike_for_any_micro_batch) {
  std::vector<std::vector<float>> weights;
  for (const auto& [lanes, micro] : {std::pair{1, 8}, {1, 1}, {4, 2}, {4, 1}, {8, 1}}) {
    Training t(lanes, micro);
    PackedRows rows = documents();
    for (int i = 0; i < 3; ++i) t.step(rows);
    weights.push_back(t.weights());
  }
  EXPECT_EQ(weights[0], weights[1]);
  EXPECT_EQ(weights[2], weights[3]);
  EXPECT_NE(weights[0], weights[2]);
  double gap = 0;
  for (size_t i = 0; i < weights[0].size(); ++i)
    gap = std::max(gap, std::abs(double(weights[0][i]) - double(weights[4][i])));
  EXPECT_LT(gap, 1e-3) << "another order of the same sum";
}

TEST(TrainStep, losses_fall_and_are_the_batchs_own) {
  Training t(1, 4, 3e-3);
  PackedRows rows = documents();
  const StepReport first = t.step(rows);
  EXPECT_NEAR(first.loss, std::log(97.0), 0.5);
  EXPECT_GT(first.router.balance_loss, 0);
  EXPECT_GT(first.gradient_norm, 0);
  StepReport last{};
  for (int i = 0; i < 40; ++i) t.memory->state.step = 0, last = t.step(rows);
  EXPECT_LT(last.loss, first.loss - 1);
}

TEST(TrainStep, a_loss_that_is_not_finite_changes_nothing) {
  Training t(1, 4);
  PackedRows rows = documents();
  t.memory->state.weights.final_norm.elements<float>()[0] = INFINITY;
  const std::vector<float> before = t.weights();
  expect_error(ErrorKind::invalid_input, {"step 1", "diverged"}, [&] { t.step(rows); });
  EXPECT_EQ(t.weights(), before);
  EXPECT_EQ(t.memory->state.step, 0);
}

// A state whose tensors hold one number each, and what a checkpoint of it depends on.
struct Saving {
  Training training{1, 4};
  const Scratch scratch;
  const RunIdentity identity{"{\"train.lr\":0.5}", "t", "d", "v"};
  Buffer memory{size_t(3 * tensors().master.bytes()), Purpose::optimizer};

  TrainedTensors tensors() const {
    const TrainingState& state = training.memory->state;
    return {state.master, state.first, state.second};
  }
  Tensor snapshot() const { return memory.tensor(DType::f32, {3, tensors().master.count()}); }
  void fill(float value) {
    for (const Tensor& t : {tensors().master, tensors().first, tensors().second}) {
      std::fill(t.elements<float>(), t.elements<float>() + t.count(), value);
      value += 1;
    }
  }
  CheckpointWriter writer(Tensor copies) {
    return {scratch.path(), training.run, identity, training.memory->state.weights, copies};
  }
  // The first weight and moments of the newest checkpoint.
  std::vector<float> saved() {
    fill(-9);
    load_run_checkpoint(open_run_checkpoint(scratch.path()), training.memory->state.weights, tensors());
    return {tensors().master.elements<float>()[0], tensors().first.elements<float>()[0],
            tensors().second.elements<float>()[0]};
  }
};

TEST(Train, has_a_steps_floor_found_where_the_run_is_long) {
  const Scratch scratch;
  const std::string source = std::string(FULGUR_SOURCE) + "/";
  for (const int64_t steps : {4, 100'000'000}) {
    std::atomic<bool> stop{false};
    int64_t asked = 0;
    Recorder recorder;
    const RunConfig run = read_run_config(
        source + "configs/tiny.toml",
        {"run.dir=" + (scratch / std::to_string(steps)).string(), "train.steps=" + std::to_string(steps),
         "train.warmup=1", "data.train=[\"" + source + "data/tiny/train.txt\"]", "data.validation=[]",
         "data.tokenizer=" + source + "data/tiny/tokenizer"});
    const auto floor = [&] { return ++asked, stop = true, 1.0; };
    const TrainReport report = train(run, {.stop = &stop, .recorder = &recorder, .floor = floor});
    EXPECT_EQ(asked, steps > 4 ? 1 : 0);
    EXPECT_EQ(report.steps, steps > 4 ? kRecordedStep : 4);
    EXPECT_FALSE(recorder.calls.empty());
  }
}

TEST(CheckpointWriter, saves_what_the_tensors_held_when_it_was_asked) {
  Saving s;
  s.training.run.keep = 2;
  for (const bool beside : {false, true}) {
    CheckpointWriter writer = s.writer(beside ? s.snapshot() : Tensor{});
    const int64_t step = beside ? 20 : 10;
    s.fill(float(step)), writer.save(s.training.stream, s.tensors(), step);
    s.fill(float(step + 5)), writer.save(s.training.stream, s.tensors(), step + 5);
    s.fill(-1);
    writer.finish();
    EXPECT_EQ(s.saved(), (std::vector<float>{float(step + 5), float(step + 6), float(step + 7)}));
  }
  EXPECT_EQ(newest_checkpoint(s.scratch.path()), 25);
  EXPECT_FALSE(std::filesystem::exists(s.scratch / "checkpoints/step-15")) << "two are kept";
  std::filesystem::remove_all(s.scratch / "checkpoints/step-25");
  EXPECT_EQ(s.saved(), (std::vector<float>{20, 21, 22}));
}

TEST(CheckpointWriter, a_failure_is_told_when_it_is_asked_for) {
  for (const bool beside : {false, true}) {
    Saving s;
    CheckpointWriter writer = s.writer(beside ? s.snapshot() : Tensor{});
    s.fill(1), writer.save(s.training.stream, s.tensors(), 1), writer.finish();
    std::filesystem::create_directories(s.scratch / "checkpoints/step-2");
    expect_error(ErrorKind::invalid_input, {"step-2", "exists", "saving step 2 failed"}, [&] {
      writer.save(s.training.stream, s.tensors(), 2);
      writer.finish();
    });
    writer.check();
    std::filesystem::remove_all(s.scratch / "checkpoints/step-2");
    EXPECT_EQ(s.saved(), (std::vector<float>{1, 2, 3}));
  }
}

TEST(Metrics, are_cut_back_to_what_is_not_written_again) {
  const Scratch scratch;
  const std::string kept =
      "{\"step\": 1, \"loss\": 3.5}\n{\"step\": 1, \"validation_bits_per_byte\": 2}\n{\"step\": 2, \"loss\": 2.5}\n";
  spill(scratch / "m",
        kept + "{\"step\": 2, \"validation_bits_per_byte\": 1}\n{\"step\": 3, \"loss\": 1}\n{\"step\": 2");
  EXPECT_EQ(cut_metrics(scratch / "m", 2), (std::vector<double>{3.5, 2.5}));
  EXPECT_EQ(slurp(scratch / "m"), kept);
  Metrics(scratch / "m").write({{"step", 3}});
  EXPECT_EQ(slurp(scratch / "m"), kept + "{\"step\": 3}\n");
  EXPECT_EQ(cut_metrics(scratch / "none", 2), std::vector<double>{});
}

TEST(Metrics, curve) {
  EXPECT_EQ(loss_curve({1}, 10, 3), "");
  EXPECT_EQ(loss_curve({3, 2, 1}, 10, 3), "   3.000 |*\n   2.000 | *\n   1.000 |  *\n         +--- step 3\n");
}

}  // namespace
}  // namespace fulgur::tests

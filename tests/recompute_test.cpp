// A step's numbers depend neither on what layers keep for their backward, nor on micro-batches or threads, in f32 and
// bf16; and the memory that a plan counts is the memory that the step takes.
#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "device/transfer.h"
#include "model/initialise.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur::tests {
namespace {

constexpr int64_t kRows = 4, kSequence = 128;

PackedRows documents() {
  TokenizedDocuments all;
  for (uint64_t d = 0; d < 12; ++d) {
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < 5 + 23 * d; ++i) tokens.push_back(int32_t(philox(d, i, 4)[0] % 97));
    all.add(tokens);
  }
  return {all, kSequence, 3};
}

RunConfig run_config(DType type, bool recompute, int64_t micro_rows) {
  RunConfig run;
  run.steps = 3, run.sequence = kSequence, run.tokens_per_step = kRows * kSequence, run.micro_rows = micro_rows;
  run.capacity = 1, run.z = 1e-3;  // experts drop choices
  run.lr = 1e-3, run.schedule = Schedule::constant, run.dtype = type, run.recompute = recompute, run.threads = 1;
  run.device = test_device();
  return run;
}

struct Trained {
  std::vector<std::byte> master;
  std::vector<double> losses;
  size_t scratch_peak, tape_peak;
  TrainingPlan plan;
  bool weights_are_the_rounded_master = true;
};

Trained trained(const RunConfig& run, int threads, int64_t moe_rows = kMoeRows) {
  const ModelConfig config = tiny_config();
  TrainingMemory memory(config, run, 0);
  Stream stream(run.device, threads);
  ModelWeights master = views_of(config, memory.state.master);
  initialise(config, master, 1, stream.threads());
  round_master(stream, memory.state);
  Arena scratch = memory.scratch(), tape = memory.tape();
  Exec exec{stream, scratch, tape, config};
  exec.moe_rows = moe_rows;
  PackedRows rows = documents();
  Trained result{.master = {}, .losses = {}, .scratch_peak = 0, .tape_peak = 0, .plan = memory.plan};
  for (int64_t step = 0; step < run.steps; ++step)
    result.losses.push_back(train_rows(exec, memory.state, run, rows).loss);
  result.master = bytes_of(stream, memory.state.master);
  if (run.dtype == DType::bf16) {
    const std::vector<float> wide = download<float>(stream, memory.state.master);
    const std::vector<bf16> read = download<bf16>(stream, memory.state.weights.flat);
    for (size_t i = 0; i < wide.size(); ++i)
      result.weights_are_the_rounded_master &= read[i].bits == bf16(wide[i]).bits;
  }
  result.scratch_peak = scratch.peak_bytes(), result.tape_peak = tape.peak_bytes();
  return result;
}

class Recompute : public testing::TestWithParam<DType> {};

TEST_P(Recompute, nor_micro_batches_nor_threads_change_a_bit) {
  const Trained whole = trained(run_config(GetParam(), false, kRows), 1);
  EXPECT_TRUE(whole.weights_are_the_rounded_master);
  for (const bool recompute : {false, true})
    for (const int64_t micro_rows : {1, 2, 4}) {
      const Trained other = trained(run_config(GetParam(), recompute, micro_rows), 2);
      EXPECT_TRUE(other.master == whole.master) << "recompute " << recompute << ", micro rows " << micro_rows;
      EXPECT_EQ(other.losses, whole.losses);
    }
}

// Windows of half a packed row, and experts that take half a row, a row or two at a time: in bf16 the sums of half rows
// have bits of their own, in every run that may cut there.
TEST_P(Recompute, nor_do_the_rows_that_experts_take_at_a_time) {
  for (const AuxForm form : {AuxForm::report, AuxForm::transformers})
    for (const int64_t moe_rows : {kSequence / 2, kSequence, 2 * kSequence}) {
      RunConfig run = run_config(GetParam(), false, kRows);
      run.window = kSequence / 2, run.aux_form = form;
      const Trained whole = trained(run, 1, moe_rows);
      run.recompute = true;
      for (const int64_t micro_rows : {1, 4}) {
        run.micro_rows = micro_rows;
        const Trained parts = trained(run, 2, moe_rows);
        EXPECT_TRUE(parts.master == whole.master) << moe_rows << " rows at a time, micro rows " << micro_rows;
        EXPECT_EQ(parts.losses, whole.losses);
      }
    }
}

// One step, which an emulated GPU takes too.
TEST_P(Recompute, takes_less_memory_for_the_same_bits_where_experts_take_fewer_rows) {
  RunConfig run = run_config(GetParam(), false, kRows);
  run.window = kSequence / 2, run.steps = 1;
  const Trained whole = trained(run, 1, kSequence / 2);
  run.recompute = true;
  const Trained few = trained(run, 1, kSequence / 2), all = trained(run, 1, kRows * kSequence);
  EXPECT_TRUE(few.master == whole.master);
  EXPECT_EQ(few.losses, whole.losses);
  EXPECT_LT(few.tape_peak, all.tape_peak);
  EXPECT_LE(few.scratch_peak, all.scratch_peak);  // whose peak may be attention's
}

TEST_P(Recompute, shrinks_the_tape_and_the_plan_is_what_is_taken) {
  RunConfig run = run_config(GetParam(), false, 2);
  run.health_every = run.steps;  // planned for, because a step that is not finite is measured
  const Trained everything = trained(run, 1);
  run.recompute = true;
  const Trained inputs = trained(run, 1);
  EXPECT_LT(inputs.tape_peak, everything.tape_peak / 2);
  for (const Trained* t : {&everything, &inputs}) {
    EXPECT_EQ(t->plan.tape, t->tape_peak);
    EXPECT_EQ(t->plan.scratch, (t->scratch_peak + 255) / 256 * 256);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Recompute, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(Bf16, losses_are_close_to_those_of_f32) {
  const Trained wide = trained(run_config(DType::f32, false, 2), 1),
                narrow = trained(run_config(DType::bf16, false, 2), 1);
  for (size_t step = 0; step < wide.losses.size(); ++step) {
    EXPECT_NE(narrow.losses[step], wide.losses[step]);
    EXPECT_NEAR(narrow.losses[step], wide.losses[step], 1e-2);
  }
}

TEST(TrainingPlan, counts_every_part_and_says_what_helps) {
  const ModelConfig config = tiny_config();
  RunConfig run = run_config(DType::bf16, false, 2);
  run.device = {}, run.lanes = 2;  // on the CPU the snapshot is a part like all others
  const TrainingPlan plan = plan_training(config, run, 0);
  const size_t elements = size_t(flat_elements(config));
  EXPECT_EQ(plan.weights, elements * 2 + size_t(config.layers * config.heads) * 4);
  EXPECT_EQ(plan.master, elements * 4);
  EXPECT_EQ(plan.gradients, elements * 4 * 2) << "two levels of the lanes' tree";
  EXPECT_GE(plan.moments, elements * 8);
  size_t sum = 0;
  for (const TrainingPlan::Part& p : plan.parts()) {
    sum += p.bytes;
    EXPECT_NE(plan.describe().find(p.name), std::string::npos);
  }
  EXPECT_EQ(sum, plan.total());
  EXPECT_EQ(plan.snapshot, 0u) << "nothing is saved before the last step";
  run.steps = 3, run.save_every = 2;
  const TrainingPlan roomy = plan_training(config, run, 0), tight = plan_training(config, run, 0, roomy.total() - 1);
  EXPECT_EQ(roomy.total(), plan.total() + elements * 12);
  EXPECT_FALSE(roomy.saves_between_steps);
  EXPECT_EQ(tight.total(), plan.total());
  EXPECT_NE(tight.describe().find("written between steps"), std::string::npos);
  run.micro_rows = 1, run.lanes = 1;
  EXPECT_LT(plan_training(config, run, 0).tape, plan.tape);
  EXPECT_GT(plan_training(config, run, 4096).scratch, plan.scratch) << "validation's batch is larger than the step's";
  run.micro_rows = 2, run.sequence = int64_t(1) << 25, run.tokens_per_step = 2 * run.sequence;
  expect_error(ErrorKind::out_of_memory, {"tape", "free", "train.sequence", "train.micro_rows", "train.recompute"},
               [&] { TrainingMemory(config, run, 0); });
}

}  // namespace
}  // namespace fulgur::tests

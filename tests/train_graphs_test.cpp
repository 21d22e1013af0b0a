// label: slow
// Micro-batches of a training step as graphs, on the tests' device: the bits of a step are those of its calls. On the
// CPU, which has no graphs, all runs are call by call.
#include <gtest/gtest.h>

#include "base/random.h"
#include "device/transfer.h"
#include "model/initialise.h"
#include "ops/lightning_attention.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"
#include "train/micro_batch.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur::tests {
namespace {

std::vector<int32_t> draw(uint64_t seed, int64_t n) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(philox(seed, uint64_t(i), 4)[0] % 97));
  return tokens;
}

struct Setup {
  DType type;
  bool recompute, drops;
  int64_t lanes;
};

constexpr int64_t kSequence = 96, kSteps = 4;

ModelConfig two_layers() {
  ModelConfig c = tiny_config();
  c.layers = 2, c.attention = {AttentionKind::lightning, AttentionKind::softmax};
  return c;
}

// Two micro-batches a step; of packed documents, whose numbers differ, but not their shapes rounded up.
RunConfig run_config(const Setup& setup) {
  RunConfig run;
  run.steps = kSteps, run.sequence = kSequence, run.tokens_per_step = 2 * kSequence, run.micro_rows = 1;
  run.lanes = setup.lanes;
  run.lr = 1e-2, run.schedule = Schedule::constant, run.clip = 0.5, run.z = 1e-3;
  run.dtype = setup.type, run.recompute = setup.recompute, run.capacity = setup.drops ? 1 : 0;
  run.threads = 1, run.device = test_device();
  return run;
}

PackedRows documents() {
  TokenizedDocuments all;
  for (uint64_t d = 0; d < 60; ++d) all.add(draw(d, d % 4 == 0 ? 12 : 9));
  return {all, kSequence, 3};
}

// A run in memory of its own. graphs: whether it may have some.
struct Training {
  const ModelConfig config = two_layers();
  const RunConfig run;
  TrainingMemory memory;
  Stream stream;
  PackedRows rows = documents();
  std::vector<double> figures;  // of steps: loss, gradient norm
  std::vector<bool> taken;

  Training(const Setup& setup, bool graphs) : run(run_config(setup)), memory(config, run, 0), stream(run.device, 1) {
    memory.lend_to(stream);
    ModelWeights master = views_of(config, memory.state.master);
    initialise(config, master, 1, stream.threads());
    round_master(stream, memory.state);
    if (!graphs) memory.state.graphs = nullptr;
  }
  // Goes on where another run is.
  Training(const Setup& setup, bool graphs, Training& from) : Training(setup, graphs) {
    TrainingState& to = memory.state;
    const TrainingState& state = from.memory.state;
    from.stream.synchronize();
    copy(stream, to.master, state.master), copy(stream, to.first, state.first), copy(stream, to.second, state.second);
    to.step = state.step;
    round_master(stream, to);
    figures = from.figures, taken = from.taken;
  }

  void step(const SpikeWatch& watch = {}) {
    Arena scratch = memory.scratch(), tape = memory.tape();
    Exec exec{stream, scratch, tape, config, run.in_order()};
    const StepReport report = train_rows(exec, memory.state, run, rows, watch);
    figures.insert(figures.end(), {report.loss, report.gradient_norm});
    taken.push_back(report.taken);
  }
  void steps(int64_t count) {
    for (int64_t i = 0; i < count; ++i) step();
  }
  std::vector<std::byte> master() { return bytes_of(stream, memory.state.master); }
  int64_t launched() const { return memory.graphs ? memory.graphs->launched() : 0; }
};

class TrainGraphs : public testing::TestWithParam<Setup> {};

// One of the steps is not taken; the run with graphs goes on in other memory after two.
TEST_P(TrainGraphs, change_no_bit) {
  const SpikeWatch takes_nothing({.window = 1}, {.skipped = {}, .losses = {0}, .gradient_norms = {0}});
  Training calls(GetParam(), false), first(GetParam(), true);
  calls.steps(3), calls.step(takes_nothing), calls.steps(kSteps - 3);
  first.steps(2);
  Training second(GetParam(), true, first);
  second.steps(1), second.step(takes_nothing), second.steps(kSteps - 3);
  EXPECT_EQ(second.figures, calls.figures);
  EXPECT_EQ(second.taken, (std::vector<bool>{true, true, true, false, true}));
  EXPECT_TRUE(second.master() == calls.master());
  EXPECT_EQ(calls.launched(), 0);
  EXPECT_TRUE(second.launched() > 0 || !test_device().is_cuda());
}

INSTANTIATE_TEST_SUITE_P(Setups, TrainGraphs,
                         testing::Values(Setup{DType::f32, false, true, 2}, Setup{DType::bf16, true, true, 1},
                                         Setup{DType::bf16, false, false, 1}),
                         [](const auto& info) {
                           return std::string(name_of(info.param.type)) + (info.param.recompute ? "_recomputed" : "") +
                                  (info.param.drops ? "_drops" : "");
                         });

// The loss and the gradients of one micro-batch, as it is or placed in room that has a shape of few.
std::vector<std::byte> gradients_of(const TinyModel& m, DType type, const std::vector<int64_t>& lengths, bool in_room) {
  PackedRow row;
  for (const int64_t n : lengths) append_document(row, draw(uint64_t(n), n));
  const std::vector<PackedRow> packed{row};
  const int64_t rows = int64_t(row.tokens.size());
  const DeviceId device = test_device();
  const ArenaBytes bytes = measured_micro_step(m.config, type, rows, device, false);
  const size_t scratch_bytes = 2 * bytes.scratch;  // there is room too
  const Buffer arenas(scratch_bytes + bytes.tape, Purpose::activations, device),
      sums(size_t(flat_elements(m.config)) * sizeof(float), Purpose::optimizer, device);
  Arena scratch(arenas.data(), scratch_bytes, device), tape(arenas.data() + scratch_bytes, bytes.tape, device);
  Stream stream(device, 1);
  Exec exec{stream, scratch, tape, m.config, false};
  ModelWeights grads = views_of(m.config, sums.tensor(DType::f32, {flat_elements(m.config)}));
  const Tensor loss = upload(stream, scratch, std::vector<double>{0}),
               scale = upload(stream, scratch, std::vector<double>{0.01});
  MicroBatch micro = micro_batch_of(exec, packed);
  if (in_room) {
    const MicroBatch exact = micro;
    micro = placed(stream, exact, largest_micro_batch(exec, rows, rows));
    EXPECT_GT(micro.batch.sequences(), exact.batch.sequences());
    EXPECT_GT(micro.batch.longest, exact.batch.longest);
    EXPECT_EQ(download<int32_t>(stream, micro.batch.row_begin).back(), rows);
  }
  micro_step(exec, m.weights, grads, micro, scale, {}, loss);
  std::vector<std::byte> all = bytes_of(stream, grads.flat);
  for (const std::byte b : bytes_of(stream, loss)) all.push_back(b);
  return all;
}

// Heads as Hopper's kernels take them.
ModelConfig wide_heads() {
  ModelConfig c = two_layers();
  c.heads = 2, c.head_dim = 128, c.rotary_dim = 64;
  return c;
}

void expect_same_in_room(const ModelConfig& config, DType type, const std::vector<int64_t>& lengths) {
  const TinyModel m(config, type, 5);
  EXPECT_TRUE(gradients_of(m, type, lengths, true) == gradients_of(m, type, lengths, false));
}

const std::vector<int64_t> kLengths{5, 70, 2, 9, 33, 2, 7, 65, 3};

TEST(Placed, changes_no_bit) {
  for (const DType type : {DType::f32, DType::bf16}) expect_same_in_room(two_layers(), type, kLengths);
}
TEST(Placed, changes_no_bit_of_wide_heads) { expect_same_in_room(wide_heads(), DType::bf16, kLengths); }
// Lightning attention is cut into segments.
TEST(Placed, changes_no_bit_of_a_long_sequence) {
  std::vector<int64_t> lengths = kLengths;
  lengths[1] = LightningAttention::kSegment + 70;
  expect_same_in_room(wide_heads(), DType::bf16, lengths);
}

}  // namespace
}  // namespace fulgur::tests

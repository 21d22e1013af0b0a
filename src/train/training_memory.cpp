#include "train/training_memory.h"

#include <algorithm>

#include "base/grid.h"
#include "base/progress.h"
#include "device/devices.h"
#include "device/poison.h"
#include "ops/lightning_attention.h"
#include "train/micro_batch.h"
#include "train/train_rows.h"

namespace fulgur {
namespace {

constexpr size_t kAlign = 256;  // bytes, as arenas align

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// A measuring run on a device.
struct Measuring {
  Stream stream;
  Arena scratch, tape;
  Exec exec;

  Measuring(const ModelConfig& config, DeviceId device, bool in_order)
      : stream(Stream::measuring(device)),
        scratch(Arena::measuring(device)),
        tape(Arena::measuring(device)),
        exec{stream, scratch, tape, config, in_order} {}
  // Tensors without bytes.
  Tensor shape(DType type, std::initializer_list<int64_t> axes) const {
    return contiguous(nullptr, type, stream.device(), axes);
  }
  ModelWeights weights(DType type) const {
    const ModelConfig& config = exec.config;
    ModelWeights w = views_of(config, shape(type, {flat_elements(config)}));
    fill_decays(config, w, shape(wide(type), {config.layers, config.heads}));
    return w;
  }
};

TrainingState state_shapes(const Measuring& run, DType type) {
  const Tensor flat = run.shape(wide(type), {flat_elements(run.exec.config)});
  TrainingState state{.weights = run.weights(type),
                      .master = flat,
                      .grads = {views_of(run.exec.config, flat)},
                      .first = flat,
                      .second = flat,
                      .not_decayed = {}};
  state.not_decayed = run.shape(DType::i64, {int64_t(not_decayed_ranges(state.weights).size()), 2});
  return state;
}

// A step's batches lie in scratch together; one of them at a time is worked on.
ArenaBytes measured_step(const ModelConfig& config, const RunConfig& run) {
  Measuring measuring(config, run.device, run.in_order());
  Exec& exec = measuring.exec;
  TrainingState state = state_shapes(measuring, run.dtype);
  std::vector<MicroBatch> laid_out;
  for (int64_t i = 0; i < run.largest_batch() / run.sequence; i += run.micro_rows)
    laid_out.push_back(largest_micro_batch(exec, run.micro_rows * run.sequence, run.sequence));
  const Lane lane(laid_out.data(), 1);
  StepInput input = step_input(exec, run, 1);
  input.lanes = {&lane, 1}, input.counted_rows = 1;
  input.health = true;  // a step that is not finite is computed again with it
  input.probe = {0, run.sequence / kGrid * kGrid};
  train_step(exec, state, input);
  return {measuring.scratch.peak_bytes(), measuring.tape.peak_bytes()};
}

// Scratch of a forward over whole documents and the head.
size_t measured_validation(const ModelConfig& config, const RunConfig& run, int64_t rows) {
  Measuring measuring(config, run.device, run.in_order());
  Exec& exec = measuring.exec;
  const ModelWeights weights = measuring.weights(run.dtype);
  const Tensor nats = exec.scratch.alloc(DType::f64, {1});
  const MicroBatch micro = largest_micro_batch(exec, rows, rows);
  head_nats(exec, weights, forward(exec, weights, micro.batch), micro.targets, nats);
  return exec.scratch.peak_bytes();
}

// The most that a CUDA twin's scratch takes, by the operators that take more than a few numbers; in batches of long
// documents. Of shorter ones beside a long one lightning attention may take more, which then comes from the device's
// pool.
size_t cuda_operator_bytes(const ModelConfig& c, const RunConfig& run, int64_t rows) {
  constexpr int64_t kPieceRows = 32, kListed = 32, kSegment = LightningAttention::kSegment;
  const int64_t inner = c.heads * c.head_dim, width = std::max(c.width, inner),
                states = c.heads * c.head_dim * c.head_dim;
  const int64_t moe_rows = std::min(rows, run.recompute ? kMoeRows : rows);
  const int64_t segments = (run.sequence + kGrid - 1) / kSegment + 1,
                sequences = (rows + run.sequence - 1) / run.sequence;
  const int64_t numbers = std::max({
      (rows / kPieceRows + 1) * (width + 8),                                            // norms' gradients
      c.vocab_size * (kListed + 1) + 4 * rows + (rows / kListed + 1) * (c.width + 10),  // the embedding's
      moe_rows * (kListed + 1 + 2 * c.experts_per_token) + 4,                           // gathers'
      moe_rows * c.experts / 2,                                                         // wide factors, rounded
      rows * c.heads,                                                                   // softmax attention's
      states * std::max(sequences * 2 * segments, rows / kSegment + 2),                 // lightning attention's
      4 * std::max(rows, std::max(c.vocab_size, c.experts * std::max(c.width, c.expert_width))),  // health's
  });
  return aligned(size_t(numbers) * sizeof(float)) + (size_t(1) << 20);
}

// What the CPU twins allocate themselves. A thread keeps the packed operands of its matrix products (at most 0.75 MiB
// of rows, 4 of columns, 1 of sums) and one attention block's matrices (7 of 64 rows and a state: 0.4 MiB at 128 dims a
// head); softmax attention's backward keeps a number for every head and row, others a few for every row.
size_t operator_bytes(const ModelConfig& config, int64_t rows, int threads) {
  constexpr int64_t kThreadBytes = int64_t(8) << 20, kNumbersPerRow = 8;
  return size_t(threads * kThreadBytes + rows * (config.heads + kNumbersPerRow) * byte_size(DType::f32));
}

[[noreturn]] void refuse(const TrainingPlan& plan, const RunConfig& run) {
  std::string list, keys = "lower train.sequence";
  for (const TrainingPlan::Part& p : plan.parts())
    list += (list.empty() ? "" : ", ") + std::string(p.name) + " " + std::to_string(p.bytes);
  if (run.micro_rows > 1) keys += " or train.micro_rows";
  if (!run.recompute) keys += ", or set train.recompute = true";
  else if ((run.window ? run.window : run.sequence) > kMoeRows)
    keys += ", or set moe.window to at most " + std::to_string(kMoeRows);
  fail(ErrorKind::out_of_memory, "training needs " + std::to_string(plan.total()) + " bytes (" + list + "), " +
                                     std::to_string(plan.free) + " are free" +
                                     (plan.device.is_cuda() ? " on " + name_of(plan.device) : "") + ": " + keys);
}

}  // namespace

ArenaBytes measured_micro_step(const ModelConfig& config, DType type, int64_t rows, DeviceId device, bool in_order) {
  Measuring measuring(config, device, in_order);
  Exec& exec = measuring.exec;
  const ModelWeights weights = measuring.weights(type);
  ModelWeights grads = measuring.weights(wide(type));
  const Tensor loss = exec.scratch.alloc(DType::f64, {1}), scale = exec.scratch.alloc(DType::f64, {1});
  const MicroBatch micro = largest_micro_batch(exec, rows, rows);
  micro_step(exec, weights, grads, micro, scale, {}, loss);
  return {exec.scratch.peak_bytes(), exec.tape.peak_bytes()};
}

std::vector<TrainingPlan::Part> TrainingPlan::parts() const {
  std::vector<Part> all{{"weights", weights}, {"master", master}, {"gradients", gradients}, {"moments", moments},
                        {"scratch", scratch}, {"tape", tape},     {"snapshot", snapshot},   {"operators", operators}};
  std::erase_if(all, [](const Part& p) { return p.bytes == 0; });
  return all;
}

std::vector<TrainingPlan::Part> TrainingMemory::used(const Arena& scratch, const Arena& tape,
                                                     const Stream& stream) const {
  TrainingPlan taken{.weights = weights.bytes() + decays.bytes(),
                     .master = master.bytes(),
                     .gradients = gradients.bytes(),
                     .moments = moments.bytes() + not_decayed.bytes(),
                     .scratch = aligned(scratch.peak_bytes()),
                     .tape = tape.peak_bytes(),
                     .device = plan.device,
                     .snapshot = snapshot.bytes(),
                     .operators = operators.bytes() + stream.taken_from_pool()};
  return taken.parts();
}

size_t TrainingPlan::total() const {
  size_t bytes = 0;
  for (const Part& p : parts()) bytes += p.bytes;
  return device.is_cuda() ? bytes - snapshot : bytes;
}

std::string TrainingPlan::describe() const {
  std::string line;
  for (const Part& p : parts())
    line += (line.empty() ? ": " : ", ") + (p.name + (" " + short_number(double(p.bytes)) + "B"));
  return "memory " + short_number(double(total())) + "B of " + short_number(double(free)) + "B free" + line +
         (saves_between_steps ? "; no room for a snapshot: checkpoints are written between steps" : "");
}

TrainingPlan plan_training(const ModelConfig& config, const RunConfig& run, int64_t validation_rows, size_t free) {
  const size_t elements = size_t(flat_elements(config)), flat = elements * sizeof(float);
  const ModelWeights weights = Measuring(config, run.device, true).weights(run.dtype);
  const ArenaBytes arenas = measured_step(config, run);
  const int64_t rows = std::max(run.micro_rows * run.sequence, validation_rows);
  TrainingPlan plan{.weights = size_t(config.layers * config.heads) * sizeof(float),
                    .master = flat,
                    .gradients = flat * size_t(gradient_levels(run.lanes)),
                    .moments = 2 * flat + not_decayed_ranges(weights).size() * 2 * sizeof(int64_t),
                    .scratch = arenas.scratch,
                    .tape = arenas.tape,
                    .device = run.device,
                    .operators = run.device.is_cuda() ? cuda_operator_bytes(config, run, rows)
                                                      : operator_bytes(config, rows, run.thread_count()),
                    .free = free};
  if (run.dtype != DType::f32) plan.weights += elements * size_t(byte_size(run.dtype));
  if (validation_rows > 0) plan.scratch = std::max(plan.scratch, measured_validation(config, run, validation_rows));
  plan.scratch = aligned(plan.scratch);  // the tape begins where it ends
  if (run.saves_meanwhile()) plan.snapshot = 3 * flat;
  plan.saves_between_steps =
      plan.snapshot > 0 && (run.device.is_cuda() ? plan.snapshot > available_memory() : plan.total() > free);
  if (plan.saves_between_steps) plan.snapshot = 0;
  return plan;
}

TrainingPlan plan_training(const ModelConfig& config, const RunConfig& run, int64_t validation_rows) {
  return plan_training(config, run, validation_rows, available_memory(run.device));
}

TrainingMemory::TrainingMemory(const ModelConfig& config, const RunConfig& run, int64_t validation_rows)
    : plan(plan_training(config, run, validation_rows)) {
  if (plan.total() > plan.free) refuse(plan, run);
  const int64_t elements = flat_elements(config), levels = gradient_levels(run.lanes);
  const auto take = [&](size_t bytes, Purpose purpose) { return Buffer(bytes, purpose, run.device); };
  master = take(plan.master, Purpose::optimizer), gradients = take(plan.gradients, Purpose::optimizer);
  moments = take(size_t(2 * elements) * sizeof(float), Purpose::optimizer);
  activations = take(plan.scratch + plan.tape, Purpose::activations);
  if (run.device.is_cuda()) operators = take(plan.operators, Purpose::workspace);
  snapshot = Buffer(plan.snapshot, Purpose::optimizer);
  decays = take(size_t(config.layers * config.heads) * sizeof(float), Purpose::weights);
  state.master = master.tensor(DType::f32, {elements});
  if (run.dtype != DType::f32) weights = take(size_t(elements * byte_size(run.dtype)), Purpose::weights);
  state.weights = views_of(config, run.dtype == DType::f32 ? state.master : weights.tensor(run.dtype, {elements}));
  fill_decays(config, state.weights, decays.tensor(DType::f32, {config.layers, config.heads}));
  const Tensor all = gradients.tensor(DType::f32, {levels, elements}), both = moments.tensor(DType::f32, {2, elements});
  for (int64_t level = 0; level < levels; ++level) state.grads.push_back(views_of(config, all.at(level)));
  state.first = both.at(0), state.second = both.at(1);
  std::vector<int64_t> bounds;
  for (const auto& [begin, end] : not_decayed_ranges(state.weights)) bounds.insert(bounds.end(), {begin, end});
  not_decayed = take(bounds.size() * sizeof(int64_t), Purpose::optimizer);
  state.not_decayed = not_decayed.tensor(DType::i64, {int64_t(bounds.size()) / 2, 2});
  Stream stream(run.device);
  send(stream, state.not_decayed, bounds.data());
  stream.synchronize();
  if (!run.device.is_cuda() || poisons()) return;  // what is poisoned is waited for
  graphs = std::make_unique<MicroGraphs>();
  state.graphs = graphs.get();
}

void TrainingMemory::lend_to(Stream& stream) const {
  if (operators.bytes() > 0) stream.lend(operators.tensor(DType::u8, {int64_t(operators.bytes())}));
}

Tensor TrainingMemory::snapshot_tensor() const {
  return plan.snapshot == 0 ? Tensor{} : snapshot.tensor(DType::f32, {3, state.master.count()});
}

}  // namespace fulgur

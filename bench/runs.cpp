#include "bench/runs.h"

#include <algorithm>
#include <cstdio>

#include "base/progress.h"
#include "bench/random_model.h"
#include "generate/scheduler.h"
#include "model/initialise.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur::bench {
namespace {

constexpr int kRecorded = 5;  // steps of a decode of which the fastest makes the table
constexpr int kPrefills = 2;  // timed ones, after one that warms up

// Seconds of run(); its operators go to the recorder where there is one.
template <class Run>
double timed(Stream& stream, Recorder* recorder, const Run& run) {
  if (recorder) recorder->start(stream);
  const double start = monotonic_seconds();
  run();
  const double seconds = monotonic_seconds() - start;
  if (recorder) recorder->stop(stream);
  return seconds;
}

// Reads the whole prompt and draws its first token.
void read_prompt(Engine& engine, Sequence& sequence) {
  Sequence* const running[] = {&sequence};
  sequence.new_tokens = 1;
  while (sequence.new_tokens > 0) engine.step(running);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + int64_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Sessions that have read all but the last of `context` tokens each and are asked to write `tokens`.
void write_all(Scheduler& scheduler, const ModelConfig& config, int64_t sessions, int64_t context, int64_t tokens) {
  std::vector<std::pair<SessionId, int32_t>> last;
  for (int64_t i = 0; i < sessions; ++i) {
    std::vector<int32_t> prompt = random_tokens(config, context, uint64_t(i) + 1);
    last.emplace_back(scheduler.open(), prompt.back());
    prompt.pop_back();
    if (!prompt.empty()) scheduler.ask(last.back().first, {.tokens = std::move(prompt)});
  }
  while (!scheduler.idle()) scheduler.step();
  for (const auto& [id, token] : last)
    scheduler.ask(id, {.tokens = {token}, .max_tokens = tokens, .choice = uint64_t(id)});
}

// Seconds of one step of sequences that write and of a new prompt, either of which may be absent.
double mixed_step(Engine& engine, std::span<Sequence> writing, const std::vector<int32_t>& prompt, Recorder* recorder) {
  std::vector<Sequence*> running;
  for (Sequence& sequence : writing) running.push_back(&sequence);
  Sequence reading = engine.begin(prompt);
  reading.new_tokens = 1;
  if (!prompt.empty()) running.push_back(&reading);
  return timed(engine.stream(), recorder, [&] { engine.step(running); });
}

void add_rate(Measured& m, const std::string& name, double tokens) {
  m.figures.push_back({name, "tokens/s", tokens / m.seconds});
}

}  // namespace

Measured run_prefill(const InferenceSetup& setup, int64_t tokens, int64_t chunk) {
  Measured m;
  const RandomModel model(setup.shape, setup.type, setup.threads, setup.device);
  Engine engine(model.config, model.weights,
                {.sequences = 1,
                 .tokens = tokens + 1,
                 .threads = setup.threads,
                 .in_order = setup.in_order,
                 .limits = chunk > 0 ? StepLimits{.rows = chunk, .chunk = chunk} : StepLimits{}});
  for (int i = 0; i <= kPrefills + 1; ++i) {
    Sequence sequence = engine.begin(random_tokens(model.config, tokens, 1));
    const double seconds =
        timed(engine.stream(), i > kPrefills ? &m.recorder : nullptr, [&] { read_prompt(engine, sequence); });
    if (i == 1) m.seconds = seconds;
    if (i == 2) m.seconds = std::min(m.seconds, seconds);
  }
  m.peak_activation_bytes = engine.peak_activation_bytes();
  add_rate(m, "prefill " + std::to_string(tokens) + " tokens", double(tokens));
  return m;
}

Measured run_decode(const InferenceSetup& setup, int64_t batch, int64_t context, int64_t steps) {
  Measured m;
  const RandomModel model(setup.shape, setup.type, setup.threads, setup.device);
  const int64_t answer = 1 + steps + kRecorded;
  Engine engine(model.config, model.weights,
                {.sequences = batch,
                 .tokens = batch * (context + answer + 1),
                 .threads = setup.threads,
                 .in_order = setup.in_order});
  Scheduler scheduler(engine);
  write_all(scheduler, model.config, batch, context, answer + 1);
  scheduler.step();
  std::vector<double> seconds;
  for (int64_t i = 0; i < steps; ++i) seconds.push_back(timed(engine.stream(), nullptr, [&] { scheduler.step(); }));
  m.seconds = median(seconds);
  for (int i = 0; i < kRecorded; ++i) {
    Recorder recorder;
    timed(engine.stream(), &recorder, [&] { scheduler.step(); });
    if (i == 0 || recorder.seconds() < m.recorder.seconds()) m.recorder = std::move(recorder);
  }
  m.peak_activation_bytes = engine.peak_activation_bytes();
  add_rate(m, "decode batch " + std::to_string(batch) + " context " + std::to_string(context), double(batch));
  return m;
}

Measured run_mixed(const InferenceSetup& setup, int64_t batch, int64_t context, int64_t tokens, int64_t steps) {
  Measured m;
  const RandomModel model(setup.shape, setup.type, setup.threads, setup.device);
  const int64_t answer = 2 * steps + 4;
  Engine engine(model.config, model.weights,
                {.sequences = batch + 1,
                 .tokens = batch * (context + answer) + tokens + 1,
                 .threads = setup.threads,
                 .in_order = setup.in_order,
                 .limits = {.rows = batch + tokens, .chunk = tokens}});
  std::vector<Sequence> writing;
  for (int64_t i = 0; i < batch; ++i) {
    writing.push_back(engine.begin(random_tokens(model.config, context, uint64_t(i) + 1), uint64_t(i)));
    read_prompt(engine, writing.back());
  }
  for (Sequence& sequence : writing) sequence.new_tokens = answer - 1;
  const std::vector<int32_t> prompt = random_tokens(model.config, tokens, 0);
  std::vector<double> decode, prefill, both;
  for (int64_t i = 0; i <= steps; ++i) {
    decode.push_back(mixed_step(engine, writing, {}, nullptr));
    prefill.push_back(mixed_step(engine, {}, prompt, nullptr));
    both.push_back(mixed_step(engine, writing, prompt, nullptr));
    if (i == 0) decode.clear(), prefill.clear(), both.clear();
  }
  mixed_step(engine, writing, prompt, &m.recorder);
  m.seconds = median(both), m.peak_activation_bytes = engine.peak_activation_bytes();
  add_rate(m, "decode batch " + std::to_string(batch) + " and a prompt of " + std::to_string(tokens) + " tokens",
           double(batch + tokens));
  const double apart = median(decode) + median(prefill);
  m.figures.push_back({"decode alone", "ms", 1e3 * median(decode), false});
  m.figures.push_back({"prompt alone", "ms", 1e3 * median(prefill), false});
  m.figures.push_back({"one after the other", "ms", 1e3 * apart, false});
  m.figures.push_back({"at once", "% of one after the other", 100 * m.seconds / apart, false});
  return m;
}

namespace {

// Planned and used bytes of each part. Of steps that grow, the first ones take less than was planned for the last.
std::vector<Measured::Memory> compared(const TrainingPlan& plan, const std::vector<TrainingPlan::Part>& used,
                                       bool grows) {
  std::vector<Measured::Memory> parts;
  for (const TrainingPlan::Part& planned : plan.parts()) {
    const auto same = [&](const TrainingPlan::Part& p) { return p.name == std::string(planned.name); };
    const auto found = std::find_if(used.begin(), used.end(), same);
    const size_t bytes = found == used.end() ? 0 : found->bytes;
    if (found == used.end() && !plan.device.is_cuda()) continue;  // the CPU's operators
    parts.push_back({planned.name, planned.bytes, bytes});
    if (bytes > planned.bytes || (bytes < planned.bytes && !grows))
      fail(ErrorKind::device, std::string("memory of ") + planned.name + ": " + std::to_string(planned.bytes) +
                                  " bytes were planned, " + std::to_string(bytes) + " were used");
  }
  return parts;
}

// On a GPU, of a step: how many of its micro-batches are graphs.
void say_graphs(const RunConfig& run, const TrainingMemory& memory, int64_t launched) {
  if (!memory.graphs) return;
  const int64_t all = run.tokens_in(memory.state.step) / (run.micro_rows * run.sequence);
  std::fprintf(stderr, "%lld of a step's %lld micro-batches launched as graphs\n", static_cast<long long>(launched),
               static_cast<long long>(all));
}

}  // namespace

Measured run_train(const RunConfig& run, int64_t steps) {
  constexpr int64_t kReadying = 2;  // steps until graphs are captured
  Measured m;
  RunConfig plain = run, watched = run;
  plain.health_every = 0, watched.health_every = 1;
  double watched_seconds = 0;
  const ModelConfig config = model_shape(run);
  std::fprintf(stderr, "%s\n", plan_training(config, run, 0).describe().c_str());
  TrainingMemory memory(config, run, 0);
  Stream stream(run.device, run.thread_count());
  ModelWeights master = views_of(config, memory.state.master);
  initialise(config, master, run.seed, stream.threads());
  memory.lend_to(stream);
  round_master(stream, memory.state);
  Arena scratch = memory.scratch(), tape = memory.tape();
  Exec exec{stream, scratch, tape, config, run.in_order()};
  PackedRows rows(random_documents(config, run.rows_through(1) * 2, run.sequence), run.sequence, run.seed);
  const auto launched = [&] { return memory.graphs ? memory.graphs->launched() : 0; };
  for (int64_t i = memory.graphs ? -kReadying : 0; i <= steps + 1; ++i) {
    const auto step = [&](const RunConfig& how, Recorder* recorder) {
      return timed(stream, recorder, [&] {
        train_rows(exec, memory.state, how, rows);
        stream.synchronize();
      });
    };
    const int64_t before = launched();
    const double seconds = step(i == 0 ? watched : plain, i > steps ? &m.recorder : nullptr);
    if (i >= 1 && i <= steps) m.seconds = i == 1 ? seconds : std::min(m.seconds, seconds);
    if (i == steps) say_graphs(run, memory, launched() - before);
    if (run.health_every == 0 || i < 0 || i > steps) continue;
    const double with_health = step(watched, nullptr);
    if (i >= 1) watched_seconds = i == 1 ? with_health : std::min(watched_seconds, with_health);
  }
  m.peak_activation_bytes = scratch.peak_bytes() + tape.peak_bytes();
  m.memory = compared(memory.plan, memory.used(scratch, tape, stream), !run.batch_ramp.empty());
  add_rate(m, "train " + std::to_string(run.tokens_per_step) + " tokens a step", double(run.tokens_per_step));
  if (run.health_every > 0)
    m.figures.push_back({"health of a step", "% of the step", 100 * (watched_seconds / m.seconds - 1), false});
  return m;
}

}  // namespace fulgur::bench

#include "bench/operators.h"

#include <algorithm>
#include <map>
#include <set>

#include "bench/random_model.h"
#include "bench/replayed.h"
#include "bench/trace.h"
#include "generate/engine.h"
#include "model/initialise.h"
#include "train/train_rows.h"
#include "train/training_memory.h"

namespace fulgur::bench {
namespace {

constexpr double kOperatorSeconds = 0.1;

// The same widths with one layer of each kind that the model has.
ModelConfig cut_down(ModelConfig config) {
  std::vector<AttentionKind> kinds;
  for (const AttentionKind kind : config.attention)
    if (std::count(kinds.begin(), kinds.end(), kind) == 0) kinds.push_back(kind);
  config.attention = kinds, config.layers = int64_t(kinds.size());
  return config;
}

std::string first_shape(const OperatorCall& call) {
  const std::vector<MatrixProduct>& products = call.work.products;
  if (!products.empty() && !products.front().in_cache) return described(products.front());
  return call.tensors.empty() ? "" : shape_of(call.tensors.front().tensor);
}

// A recorder that shows each distinct call of the filter's operators once.
class FirstCalls {
 public:
  FirstCalls(const std::string& filter, const std::function<void(const VisitedCall&)>& visit)
      : filter_(filter), visit_(visit) {
    recorder_.before = [this](const OperatorCall& call, const Replay& replay) { see(call, replay); };
  }
  template <class Run>
  void during(const std::string& phase, Stream& stream, const Run& run) {
    phase_ = phase;
    recorder_.start(stream);
    run();
    recorder_.stop(stream);
  }

 private:
  void see(const OperatorCall& call, const Replay& replay) {
    if (std::string(call.name).find(filter_) == std::string::npos) return;
    std::string shape = first_shape(call), key = call.name + shape;
    for (const TouchedTensor& t : call.tensors) key += shape_of(t.tensor);
    if (!seen_.insert(key).second) return;
    const int earlier = labels_[phase_ + call.name + shape]++;
    if (earlier > 0) shape += " (" + std::to_string(earlier + 1) + ")";
    visit_({phase_, shape, call, replay});
  }

  const std::string filter_;
  const std::function<void(const VisitedCall&)>& visit_;
  Recorder recorder_;
  std::string phase_;
  std::set<std::string> seen_;
  std::map<std::string, int> labels_;
};

void visit_generation(const OperatorBench& bench, const ModelConfig& config, FirstCalls& calls) {
  const RandomModel model(config, bench.type, bench.threads);
  Engine engine(model.config, model.weights,
                {.sequences = 1,
                 .tokens = bench.tokens + 2,
                 .threads = bench.threads,
                 .limits = {.rows = bench.tokens, .chunk = bench.tokens}});
  Sequence sequence = engine.begin(random_tokens(model.config, bench.tokens, 1));
  sequence.new_tokens = 2;
  Sequence* const running[] = {&sequence};
  calls.during("prefill", engine.stream(), [&] { engine.step(running); });
  calls.during("decode", engine.stream(), [&] { engine.step(running); });
}

void visit_training(const OperatorBench& bench, const ModelConfig& config, FirstCalls& calls) {
  RunConfig run = bench.run;
  run.sequence = run.tokens_per_step = bench.tokens, run.micro_rows = run.lanes = 1, run.window = 0;
  run.dtype = bench.type;
  TrainingMemory memory(config, run, 0);
  Stream stream({}, bench.threads);
  ModelWeights master = views_of(config, memory.state.master);
  initialise(config, master, run.seed, stream.threads());
  round_master(stream, memory.state);
  Arena scratch = memory.scratch(), tape = memory.tape();
  Exec exec{stream, scratch, tape, config};
  PackedRows rows(random_documents(config, 2, run.sequence), run.sequence, run.seed);
  calls.during("train", stream, [&] { train_rows(exec, memory.state, run, rows); });
}

}  // namespace

void visit_operators(const OperatorBench& bench, const std::function<void(const VisitedCall&)>& visit) {
  const ModelConfig config = cut_down(model_shape(bench.run));
  FirstCalls calls(bench.filter, visit);
  visit_generation(bench, config, calls);
  visit_training(bench, config, calls);
}

std::vector<OperatorTime> time_operators(const OperatorBench& bench, Floors& floors) {
  std::vector<OperatorTime> times;
  Stream stream({}, bench.threads);
  visit_operators(bench, [&](const VisitedCall& v) {
    Replayed replayed(v.call, v.replay, 2 * cache_bytes());
    times.push_back({v.phase, v.call.name, v.shape, replayed.seconds(stream, kOperatorSeconds), v.call.work, {}});
  });
  for (OperatorTime& t : times) t.floor = floors.of(t.work);
  return times;
}

}  // namespace fulgur::bench

// fulgur logits: every row's logits, through the path that serving uses.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/run_options.h"
#include "bench/check_twins.h"
#include "bench/trace.h"
#include "device/devices.h"
#include "files/safetensors.h"
#include "generate/current_state.h"
#include "ops/cpu/isa.h"

namespace fulgur {
namespace {

struct LogitsOptions {
  RunOptions run;
  std::string ids, out, routing, trace;
  int64_t chunk = 0;  // 0: whole
  bool states = false, json = false, check_twins = false;
};

// The tensors that traces write, one row per token of all documents.
class Recording {
 public:
  Recording(const ModelConfig& c, DType type, int64_t tokens, bool routing) : tokens_(tokens) {
    hidden_ = add("hidden", type, {tokens, c.width}), logits_ = add("logits", DType::f32, {tokens, c.vocab_size});
    for (int64_t layer = 0; routing && layer < c.layers; ++layer) {
      experts_.push_back(add("experts_" + std::to_string(layer), DType::i32, {tokens, c.experts_per_token}));
      weights_.push_back(add("weights_" + std::to_string(layer), DType::f32, {tokens, c.experts_per_token}));
    }
  }

  // The rows of one document.
  Trace trace(int64_t begin, int64_t end, bool imposes) const {
    Trace t{.hidden = hidden_.rows(begin, end),
            .logits = logits_.rows(begin, end),
            .experts = {},
            .weights = {},
            .imposes_routing = imposes};
    for (size_t layer = 0; layer < experts_.size(); ++layer)
      t.experts.push_back(experts_[layer].rows(begin, end)), t.weights.push_back(weights_[layer].rows(begin, end));
    return t;
  }

  // Experts and weights from a file of the same tokens.
  void impose(const std::string& path, const ModelConfig& c) {
    const Safetensors file = Safetensors::open(path);
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      for (Tensor* t : {&experts_[size_t(layer)], &weights_[size_t(layer)]}) {
        const std::string name = (t->dtype == DType::i32 ? "experts_" : "weights_") + std::to_string(layer);
        const StoredTensor& stored = file.at(name);
        if (stored.dtype != t->dtype || stored.shape != std::vector<int64_t>{tokens_, c.experts_per_token})
          fail(ErrorKind::corrupt_file, path + ": " + name + ": found " + stored.describe() + ", expected " +
                                            file_name_of(t->dtype) + " [" + std::to_string(tokens_) + ", " +
                                            std::to_string(c.experts_per_token) + "]");
        std::memcpy(t->data, stored.bytes.data(), stored.bytes.size());
      }
      judge_choices(path, c, layer);
    }
  }

  std::vector<TensorToWrite> tensors(bool all) const {
    std::vector<TensorToWrite> list;
    for (size_t i = 0; i < names_.size(); ++i)
      if (all || names_[i] == "logits") list.push_back(written(names_[i], parts_[i]));
    return list;
  }

 private:
  Tensor add(const std::string& name, DType type, std::initializer_list<int64_t> shape) {
    const Tensor measured = contiguous(nullptr, type, {}, shape);
    memory_.emplace_back(size_t(measured.bytes()), Purpose::workspace);
    names_.push_back(name), parts_.push_back(memory_.back().tensor(type, shape));
    return parts_.back();
  }
  // Numbers as f32.
  static TensorToWrite written(const std::string& name, Tensor t) {
    if (t.dtype == DType::i32)
      return {
          name, t.dtype, {t.dim(0), t.dim(1)}, [t](std::byte* out) { std::memcpy(out, t.data, size_t(t.bytes())); }};
    return {name, DType::f32, {t.dim(0), t.dim(1)}, [t](std::byte* out) {
              convert_elements(out, DType::f32, t.data, t.dtype, t.count());
            }};
  }
  void judge_choices(const std::string& path, const ModelConfig& c, int64_t layer) const {
    const int32_t* ids = experts_[size_t(layer)].elements<int32_t>();
    for (int64_t i = 0; i < tokens_ * c.experts_per_token; ++i) {
      const int32_t* row = ids + i / c.experts_per_token * c.experts_per_token;
      if (ids[i] < 0 || ids[i] >= c.experts || std::count(row, row + c.experts_per_token, ids[i]) != 1)
        fail(ErrorKind::corrupt_file, path + ": experts_" + std::to_string(layer) + ": row " +
                                          std::to_string(i / c.experts_per_token) +
                                          ": expected distinct experts from 0 to " + std::to_string(c.experts - 1));
    }
  }

  int64_t tokens_;
  std::vector<Buffer> memory_;
  std::vector<std::string> names_;
  std::vector<Tensor> parts_, experts_, weights_;
  Tensor hidden_, logits_;
};

// state_l of every lightning layer: [heads, head_dim, head_dim] of one document, [documents, ...] of several.
void add_states(std::vector<TensorToWrite>& list, const LoadedModel& model, const Engine& engine,
                const std::vector<Sequence>& sequences) {
  const ModelConfig& c = model.config;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    if (c.attention[size_t(layer)] != AttentionKind::lightning) continue;
    std::vector<float> values;
    for (const Sequence& s : sequences)
      for (const double v : current_state(c, model.weights(), engine.pool(), s.state, layer))
        values.push_back(float(v));
    std::vector<int64_t> shape{c.heads, c.head_dim, c.head_dim};
    if (sequences.size() > 1) shape.insert(shape.begin(), int64_t(sequences.size()));
    list.push_back({"state_" + std::to_string(layer), DType::f32, shape,
                    [values](std::byte* out) { std::memcpy(out, values.data(), values.size() * sizeof(float)); }});
  }
}

void run_logits(const LogitsOptions& o) {
  bench::StepTrace trace(o.trace);
  const DType type = o.run.type(DType::f32);
  const LoadedModel model = load_model(o.run, type);
  const std::vector<std::vector<int32_t>> documents = parse_ids(o.ids, model.config.vocab_size);
  int64_t tokens = 0, longest = 0;
  for (const auto& d : documents) tokens += int64_t(d.size()), longest = std::max(longest, int64_t(d.size()));
  const int64_t chunk = o.chunk > 0 ? std::min(o.chunk, longest) : longest;
  const int64_t step_rows = std::min(tokens, chunk * int64_t(documents.size()));

  Recording recording(model.config, type, tokens, o.states || !o.routing.empty());
  if (!o.routing.empty()) recording.impose(o.routing, model.config);
  Engine engine(model.config, model.weights(),
                {.sequences = int64_t(documents.size()),
                 .tokens = tokens,
                 .traces = true,
                 .threads = o.run.thread_count(),
                 .in_order = o.run.in_order(),
                 .limits = {.rows = step_rows, .chunk = chunk}});
  std::optional<bench::CheckTwins> twins;
  if (o.check_twins) twins.emplace(engine.stream(), model.weights(), o.run.thread_count());
  std::vector<Sequence> sequences;
  std::vector<Trace> traces;
  int64_t begin = 0;
  for (const auto& d : documents) {
    sequences.push_back(engine.begin(d));
    traces.push_back(recording.trace(begin, begin + int64_t(d.size()), !o.routing.empty()));
    begin += int64_t(d.size());
  }
  std::vector<Sequence*> running;
  for (size_t i = 0; i < sequences.size(); ++i) sequences[i].trace = &traces[i], running.push_back(&sequences[i]);
  nlohmann::ordered_json positions = nlohmann::ordered_json::array();
  while (std::any_of(sequences.begin(), sequences.end(), [](const Sequence& s) { return s.pending() > 0; })) {
    trace.step(engine.stream(), [&] { return engine.step(running); });
    nlohmann::ordered_json reached = nlohmann::ordered_json::array();
    for (const Sequence& s : sequences) reached.push_back(s.state.position());
    positions.push_back(sequences.size() == 1 ? reached.front() : reached);
  }

  if (twins) {
    std::fprintf(stderr, "%s", twins->table().c_str());
    twins->judge();
  }
  std::vector<TensorToWrite> list = recording.tensors(o.states);
  if (o.states) add_states(list, model, engine, sequences);
  write_safetensors(o.out, list);
  trace.finish(o.run.thread_count(), engine.stream().device());
  if (o.json) {
    const nlohmann::ordered_json report{{"tokens", tokens},
                                        {"out", o.out},
                                        {"positions", positions},
                                        {"threads", o.run.thread_count()},
                                        {"device", name_of(engine.stream().device())},
                                        {"dtype", name_of(type)},
                                        {"isa", cpu::name_of(cpu::isa())},
                                        {"peak_activation_bytes", engine.peak_activation_bytes()}};
    std::printf("%s\n", report.dump().c_str());
  } else {
    std::printf("%s: logits of %lld tokens\n", o.out.c_str(), static_cast<long long>(tokens));
  }
}

}  // namespace

void add_logits(CLI::App& app) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command =
      app.add_subcommand("logits", "Writes every row's logits, f32 [tokens, vocab], to a safetensors file");
  options->run.add_to(*command, "f32");
  command->add_option("--ids", options->ids, "file or list: 1,2,3, or JSON; a list of lists is packed documents")
      ->required();
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->add_option("--chunk", options->chunk, "tokens fed at a time; default: all")->check(CLI::PositiveNumber);
  command->add_flag("--states", options->states, "also hidden, state_l, experts_l and weights_l");
  command->add_option("--routing", options->routing, "impose experts_l and weights_l of this safetensors file");
  command->add_flag("--check-twins", options->check_twins,
                    "on a GPU: runs each operator's CPU twin too, prints how far they are apart, and fails where they "
                    "differ by more than rounding");
  add_trace_option(*command, options->trace);
  command->add_flag("--json", options->json, "report as one JSON document");
  command->callback([options] { run_logits(*options); });
}

}  // namespace fulgur

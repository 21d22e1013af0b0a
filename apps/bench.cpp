// fulgur bench: figures beside their floors, from rates measured in the same run (docs/bench.md).
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/bench_tokenizer.h"
#include "apps/commands.h"
#include "apps/run_options.h"
#include "base/progress.h"
#include "bench/onednn.h"
#include "bench/operators.h"
#include "bench/random_model.h"
#include "bench/step_table.h"
#include "device/devices.h"
#include "ops/cpu/isa.h"
#include "train/training_memory.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMemoryShare = 4;  // memory is measured so many times as long as the shape of a product

struct BenchOptions {
  std::string config = "configs/bench-1b.toml", dtype, filter, device = "cpu", experts;
  std::vector<std::string> settings;
  int threads = 0;
  int64_t tokens = 2048, batch = 1, context = 64, steps = 0, chunk = 0;  // chunk 0: as generate
  double seconds = 0.15;                                                 // of measuring the rate of a shape
  bool json = false, deterministic = false, plan = false;

  int thread_count() const { return threads > 0 ? threads : available_cores(); }
  RunConfig run_config() const {
    std::vector<std::string> all = settings;
    if (threads > 0) all.push_back("train.threads=" + std::to_string(threads));
    if (!dtype.empty()) all.push_back("train.dtype=" + dtype);
    all.push_back("train.device=" + name_of(where()));
    if (deterministic) all.push_back("train.deterministic=true");
    return read_run_config(config, all);
  }
  DeviceId where() const { return device_named("--device", device); }
  DType type() const { return dtype.empty() ? fastest_type(where()) : dtype == "bf16" ? DType::bf16 : DType::f32; }
};

Json header(const BenchOptions& o, const char* kind, DType type) {
  return {{"bench", kind},
          {"version", FULGUR_VERSION},
          {"isa", cpu::name_of(cpu::isa())},
          {"device", name_of(o.where())},
          {"threads", o.thread_count()},
          {"dtype", name_of(type)},
          {"experts", o.experts.empty() ? name_of(type) : o.experts.c_str()},
          {"config", o.config}};
}

Json figure(const bench::Figure& f) {
  return {{"name", f.name}, {"value", f.value}, {"unit", f.unit}, {"better", f.more_is_better ? "more" : "less"}};
}

// The rates' own memory is gone when the model's is taken, and the other way round.
bench::MemoryRates memory_rates(const BenchOptions& o) {
  if (o.where().is_cuda()) return bench::measured_memory_rates(o.where(), kMemoryShare * o.seconds);
  Threads threads(o.thread_count());
  return bench::measured_memory_rates(threads, kMemoryShare * o.seconds);
}

void print_rates(const bench::MemoryRates& memory) {
  std::printf("\nrates: copy %.2f GB/s (read and written bytes), read %.2f GB/s\n", memory.copy * 1e-9,
              memory.read * 1e-9);
}

void report(const BenchOptions& o, const char* kind, DType type, const bench::MemoryRates& memory,
            const bench::Measured& m) {
  Threads threads(o.thread_count());
  bench::ProductRates products =
      o.where().is_cuda() ? bench::ProductRates(threads, bench::kH100) : bench::ProductRates(threads, o.seconds);
  bench::Floors floors(memory, products);
  const bench::StepTable table = bench::table_of(m.recorder, floors);
  const double reached = m.seconds > 0 ? table.floor() / m.seconds : 0;
  if (o.json) {
    Json document = header(o, kind, type);
    document["figures"] = Json::array();
    for (const bench::Figure& f : m.figures) document["figures"].push_back(figure(f));
    document["seconds"] = m.seconds, document["floor_seconds"] = table.floor(), document["share_of_floor"] = reached;
    document["peak_activation_bytes"] = m.peak_activation_bytes;
    for (const bench::Measured::Memory& part : m.memory)
      document["memory"].push_back({{"part", part.part}, {"planned", part.planned}, {"used", part.used}});
    document["step"] = bench::json_of(table), document["rates"] = bench::json_of(floors);
    std::printf("%s\n", document.dump().c_str());
    return;
  }
  std::printf("%s", bench::text_of(table, floors).c_str());
  print_rates(memory);
  const bench::Figure& rate = m.figures.front();
  std::printf("%s: %.4g %s, %.4g ms; floor %.4g ms: %s reached (%s%s%s, %s, %d threads)\n", rate.name.c_str(),
              rate.value, rate.unit.c_str(), m.seconds * 1e3, table.floor() * 1e3, bench::percent(reached).c_str(),
              name_of(type), o.experts.empty() ? "" : ", experts ", o.experts.c_str(),
              o.where().is_cuda() ? name_of(o.where()).c_str() : cpu::name_of(cpu::isa()), o.thread_count());
  for (const bench::Measured::Memory& part : m.memory)
    std::printf("%s: %zu bytes planned, %zu used\n", part.part.c_str(), part.planned, part.used);
  for (size_t i = 1; i < m.figures.size(); ++i)
    std::printf("%s: %.4g %s\n", m.figures[i].name.c_str(), m.figures[i].value, m.figures[i].unit.c_str());
}

bench::InferenceSetup inference(const BenchOptions& o) {
  ModelConfig shape = bench::model_shape(o.run_config());
  shape.int8_experts = o.experts == "int8";
  return {shape, o.type(), o.thread_count(), o.where(), o.deterministic || !o.where().is_cuda()};
}

void run_prefill(const BenchOptions& o) {
  const bench::InferenceSetup setup = inference(o);
  const bench::MemoryRates memory = memory_rates(o);
  report(o, "prefill", setup.type, memory, bench::run_prefill(setup, o.tokens, o.chunk));
}

void run_decode(const BenchOptions& o) {
  const bench::InferenceSetup setup = inference(o);
  const bench::MemoryRates memory = memory_rates(o);
  report(o, "decode", setup.type, memory, bench::run_decode(setup, o.batch, o.context, o.steps));
}

void run_mixed(const BenchOptions& o) {
  const bench::InferenceSetup setup = inference(o);
  const bench::MemoryRates memory = memory_rates(o);
  report(o, "mixed", setup.type, memory, bench::run_mixed(setup, o.batch, o.context, o.tokens, o.steps));
}

void print_plan(const TrainingPlan& plan) {
  for (const TrainingPlan::Part& part : plan.parts()) std::printf("%-10s %15zu bytes\n", part.name, part.bytes);
  std::printf("%-10s %15zu bytes of %zu free\n", "in all", plan.total(), plan.free);
}

void run_train(const BenchOptions& o) {
  const RunConfig run = o.run_config();
  if (o.plan) return print_plan(plan_training(bench::model_shape(run), run, 0));
  const bench::MemoryRates memory = memory_rates(o);
  report(o, "train", run.dtype, memory, bench::run_train(run, o.steps));
}

Json json_of(const bench::OperatorTime& t, bench::Floors& floors) {
  Json row{{"name", t.phase + " " + t.name + " " + t.shape},
           {"value", t.seconds},
           {"unit", "s"},
           {"better", "less"},
           {"bytes", t.work.bytes},
           {"flops", t.work.flops()},
           {"floor_seconds", bench::seconds_of(t.floor)}};
  for (const MatrixProduct& p : t.work.products) {
    const bench::ProductRate& rate = floors.products().of(p);
    Json product{{"shape", bench::described(p)}, {"ours", rate.ours}};
    if (rate.onednn > 0) product["onednn"] = rate.onednn;
    row["products"].push_back(product);
  }
  return row;
}

// oneDNN's time for the call's products, where it has all of them.
std::string onednn_ms(const bench::OperatorTime& t, bench::Floors& floors) {
  double seconds = 0;
  for (const MatrixProduct& p : t.work.products) {
    const double rate = floors.products().of(p).onednn;
    if (rate == 0) return "";
    seconds += p.flops / rate;
  }
  char text[24];
  std::snprintf(text, sizeof text, "%.3f", seconds * 1e3);
  return t.work.products.empty() ? "" : text;
}

void print_operators(const std::vector<bench::OperatorTime>& times, bench::Floors& floors) {
  std::printf("%-8s %-29s %-42s %9s %8s %8s %9s %8s %9s\n", "step", "operator", "shape", "ms", "GB/s", "TFLOP/s",
              "floor ms", "reached", bench::onednn() ? "oneDNN ms" : "");
  for (const bench::OperatorTime& t : times) {
    const double floor = bench::seconds_of(t.floor);
    std::printf("%-8s %-29s %-42s %9.3f %8.2f %8.3f %9.3f %8s %9s\n", t.phase.c_str(), t.name.c_str(), t.shape.c_str(),
                t.seconds * 1e3, double(t.work.bytes) / t.seconds * 1e-9, t.work.flops() / t.seconds * 1e-12,
                floor * 1e3, bench::percent(floor / t.seconds).c_str(), onednn_ms(t, floors).c_str());
  }
}

void run_ops(const BenchOptions& o) {
  const RunConfig run = o.run_config();
  const bench::MemoryRates memory = memory_rates(o);
  Threads threads(o.thread_count());
  bench::ProductRates products(threads, o.seconds);
  bench::Floors floors(memory, products);
  const std::vector<bench::OperatorTime> times =
      bench::time_operators({run, o.type(), o.thread_count(), o.tokens, o.filter}, floors);
  if (times.empty()) fail(ErrorKind::invalid_input, "--filter " + o.filter + ": expected a part of an operator's name");
  if (o.json) {
    Json document = header(o, "ops", o.type());
    document["figures"] = Json::array();
    for (const bench::OperatorTime& t : times) document["figures"].push_back(json_of(t, floors));
    document["rates"] = bench::json_of(floors);
    std::printf("%s\n", document.dump().c_str());
    return;
  }
  print_operators(times, floors);
  print_rates(memory);
  if (!bench::onednn()) std::printf("oneDNN not built in\n");
}

using Runner = void (*)(const BenchOptions&);

CLI::App* add(CLI::App& bench, const std::shared_ptr<BenchOptions>& o, const char* name, const char* what, Runner run) {
  CLI::App* command = bench.add_subcommand(name, what);
  command->add_option("--config", o->config, "TOML file; its [model] gives the shape, weights are random")
      ->capture_default_str();
  command->add_option("--set", o->settings, "section.key=value, overrides the file; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--dtype", o->dtype,
                   "f32 or bf16; default: bf16 on a GPU and where the CPU multiplies it; of train: train.dtype")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->add_option("--threads", o->threads, "threads; 0: all cores")->check(CLI::Range(0, 4096));
  command->add_option("--seconds", o->seconds, "how long the rate of each shape is measured, at least")
      ->check(CLI::Range(0.001, 60.0))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document");
  command->callback([o, run] { run(*o); });
  return command;
}

void add_experts(CLI::App& command, BenchOptions& o) {
  command.add_option("--experts", o.experts, "int8: the experts' weights, as `quantize` makes them; default: --dtype")
      ->check(CLI::IsMember({"int8"}));
}

void add_device(CLI::App& command, BenchOptions& o) {
  o.device = "auto";
  add_device_options(command, o.device, o.deterministic);
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Times operators and whole steps beside their floors");
  bench->require_subcommand(1);
  const auto count = CLI::Range(int64_t(1), int64_t(1) << 30);
  const auto options = [] { return std::make_shared<BenchOptions>(); };
  auto o = options();
  CLI::App* ops = add(*bench, o, "ops", "every operator at the shapes that the model meets", run_ops);
  ops->add_option("--filter", o->filter, "only operators whose name contains this");
  ops->add_option("--tokens", o->tokens, "of the prompt and of the training step")->check(count)->capture_default_str();
  o = options();
  CLI::App* prefill = add(*bench, o, "prefill", "one prompt to its first token", run_prefill);
  add_device(*prefill, *o), add_experts(*prefill, *o);
  prefill->add_option("--tokens", o->tokens, "of the prompt")->check(count)->capture_default_str();
  prefill->add_option("--chunk", o->chunk, "tokens read at a time; default: as generate does")->check(count);
  o = options();
  o->steps = 32;
  CLI::App* decode = add(*bench, o, "decode", "one token of every sequence a step", run_decode);
  add_device(*decode, *o), add_experts(*decode, *o);
  decode->add_option("--batch", o->batch, "sequences")->check(count)->capture_default_str();
  decode->add_option("--context", o->context, "tokens behind each sequence")->check(count)->capture_default_str();
  decode->add_option("--tokens", o->steps, "steps that are timed; their median counts")
      ->check(count)
      ->capture_default_str();
  o = options();
  o->steps = 8, o->batch = 32;
  CLI::App* mixed = add(*bench, o, "mixed", "steps that read a prompt while sequences write", run_mixed);
  add_device(*mixed, *o), add_experts(*mixed, *o);
  mixed->add_option("--batch", o->batch, "sequences that write")->check(count)->capture_default_str();
  mixed->add_option("--context", o->context, "tokens behind each of them")->check(count)->capture_default_str();
  mixed->add_option("--tokens", o->tokens, "of the prompt, which one step reads")->check(count)->capture_default_str();
  mixed->add_option("--steps", o->steps, "of each kind that are timed; their medians count")
      ->check(count)
      ->capture_default_str();
  o = options();
  o->steps = 3;
  CLI::App* train = add(*bench, o, "train", "optimizer steps over random documents", run_train);
  add_device(*train, *o);
  train->add_option("--steps", o->steps, "steps that are timed; the fastest counts")
      ->check(count)
      ->capture_default_str();
  train->add_flag("--plan", o->plan, "only the bytes that the run takes, by what they serve");
  add_bench_tokenizer(*bench);
}

}  // namespace fulgur

// fulgur generate: continues prompts.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "apps/begin_token.h"
#include "apps/commands.h"
#include "apps/run_options.h"
#include "apps/sampling_options.h"
#include "base/progress.h"
#include "bench/trace.h"
#include "device/devices.h"
#include "files/json_file.h"
#include "generate/completions.h"
#include "ops/cpu/isa.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateOptions {
  RunOptions run;
  SamplingOptions sampling;
  std::string prompt, prompt_file, batch, trace;
  int64_t choices = 1, parallel = 16;
  int32_t log_probs = -1;
  bool json = false;
};

// One prompt, with whatever its line of a batch says.
struct Task {
  std::string text;
  Json id;  // null: none was given
  SamplingOptions sampling;
  CompletionRequest request;
};

std::string text_of(const std::string& file) {
  return file == "-" ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : read_text(file);
}

Task task_of(const std::string& line, const std::string& where, const GenerateOptions& o) {
  const Json object = parse_object(line, where);
  if (!object.contains("prompt") || !object.at("prompt").is_string())
    fail(ErrorKind::invalid_input, where + ": expected an object with the text `prompt`");
  Task task{object.at("prompt").get<std::string>(), object.value("id", Json()), o.sampling, {}};
  try {
    read_fields(object, task.sampling);
  } catch (const Error& error) {
    fail(error.kind(), where + ": " + error.what());
  }
  return task;
}

std::vector<Task> tasks_of(const GenerateOptions& o) {
  if (o.batch.empty())
    return {{o.prompt_file.empty() ? o.prompt : text_of(o.prompt_file), Json(), o.sampling, CompletionRequest{}}};
  const std::string text = text_of(o.batch);
  std::vector<Task> tasks;
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string one = text.substr(begin, end - begin);
    if (one.find_first_not_of(" \t\r") != one.npos)
      tasks.push_back(task_of(one, o.batch + " line " + std::to_string(line), o));
    begin = end + 1;
  }
  if (tasks.empty()) fail(ErrorKind::invalid_input, o.batch + ": expected a JSON object with `prompt` on every line");
  return tasks;
}

std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const std::string& model, const std::string& text) {
  std::vector<int32_t> tokens = tokenizer.encode(text, SpecialTokens::as_text);
  if (const auto first = begin_token(tokenizer, model)) tokens.insert(tokens.begin(), *first);
  if (tokens.empty()) fail(ErrorKind::invalid_input, "the prompt is empty: expected some text");
  return tokens;
}

void prepare(Task& task, const GenerateOptions& o, const Tokenizer& tokenizer, const ModelConfig& config) {
  task.request = {.prompt = prompt_tokens(tokenizer, o.run.model, task.text),
                  .max_tokens = task.sampling.max_tokens,
                  .sampling = task.sampling.resolved(config.vocab_size),
                  .choices = o.choices,
                  .stop = task.sampling.stop,
                  .stop_ids = stop_ids_of(config.eos_token_ids),
                  .log_probs = o.log_probs,
                  .guesses = o.sampling.guesses};
  for (const int32_t id : task.request.prompt)
    if (id >= config.vocab_size)
      fail(ErrorKind::invalid_input, "the tokenizer's id " + std::to_string(id) +
                                         " lies outside the model's vocabulary of " +
                                         std::to_string(config.vocab_size));
}

// Room for as many at once as are wanted; when it is short, some wait.
EngineOptions engine_options(const std::vector<Task>& tasks, const GenerateOptions& o) {
  int64_t longest = 0, all = 0;
  for (const Task& task : tasks) {
    const int64_t tokens = int64_t(task.request.prompt.size()) + task.request.max_tokens;
    longest = std::max(longest, tokens), all += o.choices * tokens;
  }
  const int64_t sequences = std::min(o.choices * int64_t(tasks.size()), o.parallel);
  return {.sequences = sequences,
          .tokens = std::min(all, sequences * longest),
          .guesses = o.sampling.guesses,
          .threads = o.run.thread_count(),
          .in_order = o.run.in_order()};
}

const char* name_of(Finish finish) { return finish == Finish::stop ? "stop" : "length"; }

Json json_of(const LogProbs& log_probs, int32_t id) {
  Json top = Json::array();
  for (const auto& [other, log_prob] : log_probs.top) top.push_back({{"id", other}, {"logprob", log_prob}});
  return {{"id", id}, {"logprob", log_probs.token}, {"top", top}};
}

Json json_of(const Completion& c) {
  Json result{{"text", c.text}, {"ids", c.ids}, {"finish_reason", name_of(c.finish)}};
  for (size_t i = 0; i < c.log_probs.size(); ++i) result["logprobs"].push_back(json_of(c.log_probs[i], c.ids[i]));
  return result;
}

Json json_of(const std::vector<Completion>& choices) {
  if (choices.size() == 1) return json_of(choices[0]);
  Json list = Json::array();
  for (const Completion& c : choices) list.push_back(json_of(c));
  return {{"choices", list}};
}

void print_line(const Json& document) {
  std::printf("%s\n", document.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

// The engine and who drives it.
struct Run {
  const GenerateOptions& options;
  const LoadedModel& model;
  Engine engine;
  Scheduler scheduler{engine};
  Completions completions;
  bench::StepTrace trace;

  Run(const GenerateOptions& o, const LoadedModel& m, const Tokenizer& tokenizer, const std::vector<Task>& tasks)
      : options(o),
        model(m),
        engine(m.config, m.weights(), engine_options(tasks, o)),
        completions(scheduler, tokenizer),
        trace(o.trace) {}
  std::vector<Piece> step() {
    return trace.step(engine.stream(), [&] { return completions.step(); });
  }
  // What --json says of the run.
  void describe(Json& report) const {
    report["threads"] = options.run.thread_count();
    report["device"] = fulgur::name_of(model.weights().flat.device);
    report["dtype"] = fulgur::name_of(model.weights().flat.dtype);
    report["isa"] = cpu::name_of(cpu::isa());
    report["peak_activation_bytes"] = engine.peak_activation_bytes();
  }
};

void run_one(Run& run, const Task& task) {
  if (!run.options.json) std::fputs(task.text.c_str(), stdout);
  const CompletionId id = run.completions.start(task.request);
  double prompt_seconds = 0, answer_seconds = 0, mark = monotonic_seconds();
  bool answers = false;
  while (!run.completions.idle()) {
    const std::vector<Piece> pieces = run.step();
    const double now = monotonic_seconds();
    (answers ? answer_seconds : prompt_seconds) += now - mark;
    mark = now, answers |= !pieces.empty();
    if (run.options.json) continue;
    for (const Piece& piece : pieces) std::fputs(piece.text.c_str(), stdout);
    std::fflush(stdout);
  }
  const std::vector<Completion> choices = run.completions.take(id);
  if (!run.options.json) std::fputc('\n', stdout), std::fflush(stdout);
  run.trace.finish(run.options.run.thread_count(), run.engine.stream().device());
  if (!run.options.json) return;
  int64_t tokens = 0;
  for (const Completion& c : choices) tokens += int64_t(c.ids.size());
  Json report = json_of(choices);
  report["timings"] = {{"prompt_tokens", task.request.prompt.size()},
                       {"prompt_seconds", prompt_seconds},
                       {"tokens", tokens},
                       {"seconds", answer_seconds}};
  run.describe(report);
  print_line(report);
}

// One line of JSON a prompt, in their order, as soon as all before it are there.
void run_batch(Run& run, const std::vector<Task>& tasks) {
  std::vector<CompletionId> ids;
  for (const Task& task : tasks) ids.push_back(run.completions.start(task.request));
  Progress progress("prompts", int64_t(tasks.size()), "tokens");
  int64_t tokens = 0;
  for (size_t next = 0; next < tasks.size();) {
    tokens += int64_t(run.step().size());
    progress.update(int64_t(next), tokens);
    for (; next < tasks.size() && run.completions.is_done(ids[next]); ++next) {
      Json line = Json::object();
      if (!tasks[next].id.is_null()) line["id"] = tasks[next].id;
      line.update(json_of(run.completions.take(ids[next])));
      line["prompt_tokens"] = tasks[next].request.prompt.size();
      print_line(line);
    }
  }
  progress.update(int64_t(tasks.size()), tokens);
  run.trace.finish(run.options.run.thread_count(), run.engine.stream().device());
}

void run_generate(const GenerateOptions& o) {
  if (o.choices > 1 && !o.json && o.batch.empty())
    fail(ErrorKind::invalid_input, "--n " + std::to_string(o.choices) + ": expected --json or --batch with it");
  std::vector<Task> tasks = tasks_of(o);
  const Tokenizer tokenizer = Tokenizer::load(o.run.model);
  const LoadedModel model = load_model(o.run, o.run.type(fastest_type(o.run.where())));
  for (Task& task : tasks) prepare(task, o, tokenizer, model.config);
  Run run(o, model, tokenizer, tasks);
  o.batch.empty() ? run_one(run, tasks[0]) : run_batch(run, tasks);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Continues prompts, streaming the text");
  o->run.add_to(*command, kFastestType);
  CLI::Option* prompt = command->add_option("--prompt", o->prompt, "text to continue");
  CLI::Option* file = command->add_option("--prompt-file", o->prompt_file, "file with the text; -: standard input");
  CLI::Option* batch = command->add_option(
      "--batch", o->batch,
      "file of one JSON object a line (-: standard input): `prompt`, and if wanted `id` and any of the options below "
      "with underscores; prints one line of JSON for each, in their order");
  prompt->excludes(file, batch);
  file->excludes(batch);
  o->sampling.add_to(*command);
  command->add_option("--n", o->choices, "answers to each prompt, which is read once; above 1 with --json or --batch")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--logprobs", o->log_probs, "in JSON: each token's log-probability, and the N most likely")
      ->check(CLI::Range(0, 1000));
  command->add_option("--parallel", o->parallel, "sequences in memory at once, of a batch or of several answers")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  add_trace_option(*command, o->trace);
  command->add_flag("--json", o->json, "one JSON document instead of streamed text");
  command->callback([o, prompt, file, batch] {
    if (prompt->count() + file->count() + batch->count() == 0)
      fail(ErrorKind::invalid_input, "expected --prompt, --prompt-file or --batch");
    if (o->log_probs >= 0 && !o->json && o->batch.empty())
      fail(ErrorKind::invalid_input, "--logprobs: expected --json or --batch with it");
    run_generate(*o);
  });
}

}  // namespace fulgur

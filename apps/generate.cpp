// fulgur generate: continues a prompt.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/run_options.h"
#include "base/progress.h"
#include "bench/trace.h"
#include "files/json_file.h"
#include "generate/engine.h"
#include "ops/cpu/isa.h"
#include "text/tokenizer.h"

namespace fulgur {
namespace {

struct GenerateOptions {
  RunOptions run;
  std::string prompt, prompt_file, trace;
  int64_t max_tokens = 256;
  Sampling sampling;
  bool json = false;
};

std::string prompt_text(const GenerateOptions& o) {
  if (o.prompt_file == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  return o.prompt_file.empty() ? o.prompt : read_text(o.prompt_file);
}

// A model says in tokenizer_config.json whether its texts begin with a token of their own.
std::vector<int32_t> prompt_tokens(const Tokenizer& tokenizer, const std::string& model, const std::string& text) {
  std::vector<int32_t> tokens;
  const std::filesystem::path file = std::filesystem::path(model) / "tokenizer_config.json";
  if (std::filesystem::exists(file)) {
    const nlohmann::ordered_json config = parse_object(read_text(file), file.string());
    const auto adds = config.find("add_bos_token");
    const auto bos = config.find("bos_token");
    if (adds != config.end() && adds->is_boolean() && adds->get<bool>() && bos != config.end() && bos->is_string())
      if (const auto id = tokenizer.id_of(bos->get<std::string>())) tokens.push_back(*id);
  }
  const std::vector<int32_t> ids = tokenizer.encode(text, SpecialTokens::as_text);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  if (tokens.empty()) fail(ErrorKind::invalid_input, "the prompt is empty: expected some text");
  return tokens;
}

// What was generated, and how fast.
struct Answer {
  std::vector<int32_t> ids;
  std::string text;
  const char* finish_reason = "length";
  double prompt_seconds = 0, answer_seconds = 0;
};

Answer answer(Engine& engine, Sequence& sequence, const Tokenizer& tokenizer, const ModelConfig& config, bool streams,
              bench::StepTrace& trace) {
  Answer a;
  StreamingDecoder decoder(tokenizer);
  const auto show = [&](const std::string& piece) {
    a.text += piece;
    if (streams) std::fputs(piece.c_str(), stdout), std::fflush(stdout);
  };
  Sequence* const running[] = {&sequence};
  double mark = monotonic_seconds();
  while (sequence.new_tokens > 0) {
    const std::vector<Sampled> fresh = trace.step(engine.stream(), [&] { return engine.step(running); });
    const double now = monotonic_seconds();
    (a.ids.empty() ? a.prompt_seconds : a.answer_seconds) += now - mark;
    mark = now;
    if (fresh.empty()) continue;
    const int32_t token = fresh.front().token;
    a.ids.push_back(token);
    if (std::count(config.eos_token_ids.begin(), config.eos_token_ids.end(), token) != 0) {
      a.finish_reason = "stop";
      break;
    }
    show(token < tokenizer.vocab_size() ? decoder.feed(token) : "\xEF\xBF\xBD");
  }
  show(decoder.flush());
  return a;
}

void run_generate(const GenerateOptions& o) {
  bench::StepTrace trace(o.trace);
  const std::string text = prompt_text(o);
  const Tokenizer tokenizer = Tokenizer::load(o.run.model);
  const LoadedModel model = load_model(o.run, o.run.type(fastest_type()));
  const std::vector<int32_t> prompt = prompt_tokens(tokenizer, o.run.model, text);
  for (const int32_t id : prompt)
    if (id >= model.config.vocab_size)
      fail(ErrorKind::invalid_input, "the tokenizer's id " + std::to_string(id) +
                                         " lies outside the model's vocabulary of " +
                                         std::to_string(model.config.vocab_size));
  Engine engine(model.config, model.weights(),
                {.sequences = 1, .tokens = int64_t(prompt.size()) + o.max_tokens, .threads = o.run.thread_count()});
  Sequence sequence = engine.begin(prompt);
  sequence.new_tokens = o.max_tokens, sequence.sampling = o.sampling;
  if (!o.json) std::fputs(text.c_str(), stdout);
  const Answer a = answer(engine, sequence, tokenizer, model.config, !o.json, trace);
  if (!o.json) std::fputc('\n', stdout), std::fflush(stdout);
  trace.finish(o.run.thread_count());
  if (!o.json) return;
  const nlohmann::ordered_json report{{"text", a.text},
                                      {"ids", a.ids},
                                      {"finish_reason", a.finish_reason},
                                      {"timings",
                                       {{"prompt_tokens", prompt.size()},
                                        {"prompt_seconds", a.prompt_seconds},
                                        {"tokens", a.ids.size()},
                                        {"seconds", a.answer_seconds}}},
                                      {"threads", o.run.thread_count()},
                                      {"dtype", name_of(model.weights().flat.dtype)},
                                      {"isa", cpu::name_of(cpu::isa())},
                                      {"peak_activation_bytes", engine.peak_activation_bytes()}};
  std::printf("%s\n", report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Continues a prompt, streaming the text");
  o->run.add_to(*command, "bf16 where the CPU multiplies it, else f32");
  CLI::Option* prompt = command->add_option("--prompt", o->prompt, "text to continue");
  CLI::Option* file = command->add_option("--prompt-file", o->prompt_file, "file with the text; -: standard input");
  prompt->excludes(file);
  command->add_option("--max-tokens", o->max_tokens, "tokens to generate at most")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40))
      ->capture_default_str();
  command->add_option("--temperature", o->sampling.temperature, "0: the most likely token")
      ->check(CLI::Range(0.0f, 100.0f))
      ->capture_default_str();
  command->add_option("--top-k", o->sampling.top_k, "draw from the k most likely tokens; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_option("--top-p", o->sampling.top_p, "draw from the fewest tokens that reach probability p")
      ->check(CLI::Range(1e-6f, 1.0f))
      ->capture_default_str();
  command->add_option("--min-p", o->sampling.min_p, "leave out tokens below this share of the most likely one")
      ->check(CLI::Range(0.0f, 1.0f))
      ->capture_default_str();
  command->add_option("--seed", o->sampling.seed, "seed of the random numbers")->capture_default_str();
  add_trace_option(*command, o->trace);
  command->add_flag("--json", o->json, "one JSON document instead of streamed text");
  command->callback([o, prompt, file] {
    if (prompt->count() + file->count() == 0) fail(ErrorKind::invalid_input, "expected --prompt or --prompt-file");
    run_generate(*o);
  });
}

}  // namespace fulgur

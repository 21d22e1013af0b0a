// fulgur bench tokenizer: megabytes of text a second to ids, on one core.
#include "apps/bench_tokenizer.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bench/tokenizer_rate.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizerBench {
  std::string tokenizer;
  std::vector<std::string> files;
  int64_t passes = 5;
  size_t document_bytes = 1 << 16;
  bool json = false;
};

void run_tokenizer_bench(const TokenizerBench& o) {
  const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
  Json document{{"bench", "tokenizer"}, {"version", FULGUR_VERSION}, {"threads", 1}, {"tokenizer", o.tokenizer}};
  document["figures"] = Json::array();
  for (const std::string& file : o.files) {
    const std::string text = read_text(file);
    if (text.empty()) fail(ErrorKind::invalid_input, file + ": is empty, expected text");
    const bench::TokenizerRate r =
        bench::tokenizer_rate(tokenizer, bench::cut_at_lines(text, o.document_bytes), o.passes);
    const double rate = double(r.bytes) / r.seconds * 1e-6;
    document["figures"].push_back({{"name", file},
                                   {"value", rate},
                                   {"unit", "MB/s"},
                                   {"better", "more"},
                                   {"bytes", r.bytes},
                                   {"tokens", r.tokens}});
    if (!o.json)
      std::printf("%s: %.1f MB/s (%.1f MB, %.2f bytes a token, one core's own time, best of %lld)\n", file.c_str(),
                  rate, double(r.bytes) * 1e-6, double(r.bytes) / double(r.tokens), static_cast<long long>(o.passes));
  }
  if (o.json) std::printf("%s\n", document.dump().c_str());
}

}  // namespace

void add_bench_tokenizer(CLI::App& bench) {
  const auto o = std::make_shared<TokenizerBench>();
  CLI::App* command = bench.add_subcommand("tokenizer", "text to token ids on one core, in MB/s");
  command->add_option("TOKENIZER", o->tokenizer, "model folder or tokenizer.json")->required();
  command->add_option("FILES", o->files, "texts; each is a figure of its own")->required();
  command
      ->add_option("--document-bytes", o->document_bytes, "a text is cut at line ends into documents of so many bytes")
      ->check(CLI::Range(size_t(1), size_t(1) << 40))
      ->capture_default_str();
  command->add_option("--passes", o->passes, "over each text after one; the fastest counts")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document");
  command->callback([o] { run_tokenizer_bench(*o); });
}

}  // namespace fulgur

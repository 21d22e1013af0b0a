#include "bench/cuda/table.h"

#include <cstdarg>
#include <cstdio>

#include "base/error.h"

namespace fulgur::bench {
namespace {

using Json = nlohmann::ordered_json;

[[gnu::format(printf, 2, 3)]] void add(std::string& text, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  text += line;
}

std::string word_of(const Json& value) { return value.get<std::string>(); }

void add_head(std::string& text, const Json& document) {
  const Json& rates = document.at("rates");
  add(text, "%s, driver %s, CUDA %d.%d, %s\n", word_of(document.at("card")).c_str(),
      word_of(document.at("driver")).c_str(), document.at("cuda").get<int>() / 1000,
      document.at("cuda").get<int>() % 1000 / 10, word_of(document.at("date")).c_str());
  if (document.contains("prediction"))
    add(text, "predicted before the run: %s\n", word_of(document.at("prediction")).c_str());
  add(text,
      "copy %.3f TB/s, read and written bytes counted (run time %.3f, our kernel %.3f); matrix %.0f TFLOP/s (%s)\n\n",
      rates.at("copy_bytes_per_second").get<double>() * 1e-12, rates.at("copy_by_run_time").get<double>() * 1e-12,
      rates.at("copy_by_kernel").get<double>() * 1e-12, rates.at("matrix_flop_per_second").get<double>() * 1e-12,
      word_of(rates.at("matrix_rate_from")).c_str());
}

void add_figure(std::string& text, const Json& f) {
  const double seconds = f.at("value").get<double>();
  const Json& error = f.at("relative_error");
  char judged[32] = "-";
  if (!error.is_null()) std::snprintf(judged, sizeof judged, "%.1e", error.get<double>());
  const bool right = f.at("every_byte_repeats").get<bool>() && f.at("every_element_written").get<bool>();
  add(text, "%-30s %-30s %11.2f %5.1f%% %10.2f %10.2f %7.1f%% %8.3f %8.1f %9s %-6s %s\n",
      word_of(f.at("operator")).c_str(), word_of(f.at("shape")).c_str(), seconds * 1e6,
      f.at("spread").get<double>() * 100, f.at("floor_bytes_seconds").get<double>() * 1e6,
      f.at("floor_flops_seconds").get<double>() * 1e6, f.at("share_of_floor").get<double>() * 100,
      f.at("bytes").get<double>() / seconds * 1e-12, f.at("flops").get<double>() / seconds * 1e-12, judged,
      right ? "equal" : "WRONG", f.at("graph").get<bool>() ? "graph" : "");
}

// What others took for the same work, and how many times as long as we did.
void add_peers(std::string& text, const Json& document, const Json& figure) {
  if (!document.contains("peers")) return;
  for (const Json& peer : document.at("peers").at("times")) {
    if (peer.at("name") != figure.at("name")) continue;
    const double seconds = peer.at("seconds").get<double>();
    add(text, "    %-57s %11.2f  %5.2f times ours%s\n", word_of(peer.at("peer")).c_str(), seconds * 1e6,
        seconds / figure.at("value").get<double>(), peer.value("quoted", false) ? ", quoted, not run" : "");
  }
}

double seconds_of(const Json& document, const std::string& name) {
  for (const Json& f : document.at("figures"))
    if (f.at("name") == name) return f.at("value").get<double>();
  return 0;
}

void add_growth(std::string& text, const Json& document) {
  for (const std::string name : {"lightning_attention", "lightning_attention_backward"}) {
    const double shorter = seconds_of(document, name + " 1 x 131072 x 8");
    const double longer = seconds_of(document, name + " 1 x 1048576 x 8");
    if (shorter > 0 && longer > 0)
      add(text, "\n%s, 1,048,576 tokens: %.2f times 131,072", name.c_str(), longer / shorter);
  }
  text += '\n';
}

}  // namespace

std::string table_of(const Json& document) {
  std::string text;
  try {
    add_head(text, document);
    add(text, "%-30s %-30s %11s %6s %10s %10s %8s %8s %8s %9s %s\n", "operator", "shape", "us", "spread", "bytes us",
        "FLOPs us", "of floor", "TB/s", "TFLOP/s", "error", "two runs");
    for (const Json& figure : document.at("figures")) add_figure(text, figure), add_peers(text, document, figure);
    add_growth(text, document);
  } catch (const Json::exception& error) {
    fail(ErrorKind::invalid_input, std::string("expected a document of cuda_bench: ") + error.what());
  }
  return text;
}

}  // namespace fulgur::bench

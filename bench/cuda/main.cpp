// cuda_bench: times the CUDA twins beside their floors on the machine's first GPU, or prints the table of an earlier
// run (docs/bench.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "base/error.h"
#include "bench/cuda/measure.h"
#include "bench/cuda/table.h"

namespace {

using fulgur::bench::Document;

struct Options {
  fulgur::bench::MeasureOptions measure;
  std::string json, show, prediction, peers;
};

Document read(const std::string& path) {
  std::ifstream file(path);
  const Document document = Document::parse(file, nullptr, false);
  if (document.is_discarded()) fulgur::fail(fulgur::ErrorKind::invalid_input, path + ": expected JSON");
  return document;
}

void run(const Options& options) {
  Document document;
  if (!options.show.empty()) {
    document = read(options.show);
  } else {
    std::vector<fulgur::bench::Line> lines = fulgur::bench::lightning_lines();
    for (const auto& more :
         {fulgur::bench::softmax_lines(), fulgur::bench::row_lines(), fulgur::bench::product_lines()})
      lines.insert(lines.end(), more.begin(), more.end());
    document = fulgur::bench::measure(lines, options.measure);
    if (!options.prediction.empty()) document["prediction"] = options.prediction;
  }
  if (!options.peers.empty()) document["peers"] = read(options.peers);
  if (!options.json.empty()) std::ofstream(options.json) << document.dump(1) << '\n';
  std::fputs(fulgur::bench::table_of(document).c_str(), stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times the CUDA twins beside their floors, or prints an earlier table.");
  app.add_option("--filter", options.measure.filter, "a part of \"operator shape\"");
  app.add_option("--seconds", options.measure.seconds, "how long each line is timed, at least");
  app.add_option("--json", options.json, "where the document goes");
  app.add_option("--prediction", options.prediction, "what was expected, kept in the document");
  app.add_option("--peers", options.peers, "a document of bench/peers, whose times stand beside ours");
  app.add_option("--show", options.show, "print the table of a document; nothing is measured");
  app.add_flag("!--no-errors", options.measure.errors, "samples are not computed again in f64");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const fulgur::Error& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return fulgur::exit_code(error.kind());
  }
}

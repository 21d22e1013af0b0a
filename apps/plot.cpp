// fulgur plot: the curves of runs as an SVG file.
#include <cstdio>
#include <map>

#include "apps/commands.h"
#include "files/atomic.h"
#include "train/run_plot.h"

namespace fulgur {
namespace {

struct PlotOptions {
  std::vector<std::string> runs;
  std::string out, x = "step";
};

void run_plot(const PlotOptions& o) {
  std::vector<RunHistory> runs;
  for (const std::string& run : o.runs) runs.emplace_back(run);
  const std::map<std::string, RunAxis> axes{
      {"step", RunAxis::step}, {"tokens", RunAxis::tokens}, {"seconds", RunAxis::seconds}};
  const std::string svg = svg_of(chart_of(runs, axes.at(o.x)));
  const std::string file = o.out.empty() ? runs[0].name() + ".svg" : o.out;
  write_file(file, svg);
  std::printf("%s\n", file.c_str());
}

}  // namespace

void add_plot(CLI::App& app) {
  auto o = std::make_shared<PlotOptions>();
  CLI::App* command = app.add_subcommand("plot", "Draws the curves of runs, one over the other, as an SVG file");
  command->add_option("RUN", o->runs, "folders of runs (run.dir), at most eight")->required();
  command->add_option("--out", o->out, "file to write; default: the first run's name and .svg");
  command->add_option("--x", o->x, "step, tokens or seconds (of training, without pauses)")
      ->check(CLI::IsMember({"step", "tokens", "seconds"}))
      ->capture_default_str();
  command->callback([o] { run_plot(*o); });
}

}  // namespace fulgur

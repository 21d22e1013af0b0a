// fulgur train: a run from its configuration to a loadable model.
#include <cmath>
#include <cstdio>

#include "apps/commands.h"
#include "base/error.h"
#include "base/progress.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace fulgur {
namespace {

struct TrainOptions {
  std::string config;
  std::vector<std::string> settings;
  bool resume = false;
};

void run_train(const TrainOptions& o) {
  if (o.resume)
    fail(ErrorKind::unsupported, "--resume: going on from a checkpoint is not supported yet; expected a new run.dir");
  const RunConfig run = read_run_config(o.config, o.settings);
  const TrainReport report = train(run);
  std::printf("%s", loss_curve(report.losses, 60, 12).c_str());
  std::printf("trained %lld steps at %s tokens/s; weights %s; model in %s\n", static_cast<long long>(report.steps),
              short_number(report.tokens_per_second).c_str(), report.weights_digest.c_str(), report.model_dir.c_str());
  if (!std::isnan(report.bits_per_byte)) std::printf("validation: %.4f bits per byte\n", report.bits_per_byte);
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Trains a model as a TOML file says (docs/formats.md)");
  command->add_option("CONFIG", options->config, "TOML file")->required();
  command->add_option("--set", options->settings, "section.key=value, overrides the file; may be given several times")
      ->allow_extra_args(false);
  command->add_flag("--resume", options->resume, "go on from the newest checkpoint (comes later)");
  command->callback([options] { run_train(*options); });
}

}  // namespace fulgur

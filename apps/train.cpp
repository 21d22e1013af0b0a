// fulgur train: a run from its configuration to a loadable model.
#include <signal.h>

#include <atomic>
#include <cmath>
#include <cstdio>

#include "apps/commands.h"
#include "apps/run_options.h"
#include "apps/training_samples.h"
#include "base/error.h"
#include "base/progress.h"
#include "bench/trace.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace fulgur {
namespace {

struct TrainOptions {
  std::string config;
  std::vector<std::string> settings;
  std::string trace;
  bool resume = false;
};

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");

// SIGTERM and the first SIGINT end the run after its step; a second SIGINT meets the default and kills.
void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  action.sa_flags |= SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
}

void print_report(const TrainReport& report, const RunConfig& run) {
  if (report.stopped) {
    std::printf("stopped after step %lld of %lld, which is saved; --resume goes on\n",
                static_cast<long long>(report.steps), static_cast<long long>(run.steps));
    return;
  }
  std::printf("%s", loss_curve(report.losses, 60, 12).c_str());
  std::printf("trained %lld steps", static_cast<long long>(report.steps));
  if (report.steps_here > 0) std::printf(" at %s tokens/s", short_number(report.tokens_per_second).c_str());
  std::printf("; weights %s; model in %s\n", report.weights_digest.c_str(), report.model_dir.c_str());
  if (!std::isnan(report.bits_per_byte)) std::printf("validation: %.4f bits per byte\n", report.bits_per_byte);
}

void run_train(const TrainOptions& o) {
  stop_on_signals();
  const RunConfig run = read_run_config(o.config, o.settings);
  bench::StepTrace trace(o.trace, bench::StepTrace::Record::always);
  const TrainStart start{.resume = o.resume,
                         .stop = &stop_requested,
                         .recorder = trace.recorder(),
                         .floor = [&] { return trace.floor(run.thread_count(), run.device); },
                         .sample = training_samples(run, stop_requested)};
  print_report(train(run, start), run);
  std::fflush(stdout);
  trace.finish(run.thread_count(), run.device);
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Trains a model as a TOML file says (docs/formats.md)");
  command->add_option("CONFIG", options->config, "TOML file")->required();
  command->add_option("--set", options->settings, "section.key=value, overrides the file; may be given several times")
      ->allow_extra_args(false);
  command->add_flag(
      "--resume", options->resume,
      "go on from the newest checkpoint in run.dir: ends in the weights of a run that was never interrupted");
  add_trace_option(*command, options->trace);
  command->footer(
      "SIGTERM and Ctrl-C finish the step, save and exit 0; a second Ctrl-C kills. A save that fails (a full disk) "
      "stops\n"
      "the run with exit code 3 and keeps the newest complete checkpoint. With --resume these may differ from before:\n"
      "run.dir, run.tensorboard, train.threads, train.micro_rows, train.save_every, train.keep, train.validate_every,\n"
      "train.recompute, train.health_every, [alarm], [sample].");
  command->callback([options] { run_train(*options); });
}

}  // namespace fulgur

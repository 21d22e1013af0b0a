#include "train/run_log.h"

#include <nlohmann/json.hpp>

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char *kMetrics = "metrics.jsonl", *kAlarms = "alarms.jsonl", *kSamples = "samples.jsonl";

// Of bytes that a model wrote, so perhaps no UTF-8.
std::string line_of(const Json& object) { return object.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

RunLog::RunLog(const std::filesystem::path& run_dir, const RunConfig& run, std::optional<int64_t> from_step)
    : dir_(run_dir), from_step_(from_step), alarms_(run.alarm) {
  if (run.tensorboard) events_.emplace(dir_);
  if (from_step_) take_up();
  metrics_.emplace(dir_ / kMetrics);
}

// A step's samples come after its checkpoint, so they are written again; its alarms are not.
void RunLog::take_up() {
  losses_ = cut_metrics(dir_ / kMetrics, *from_step_);
  for (const MetricLine& line : read_metrics(dir_ / kMetrics)) follow(line);
  cut_lines(dir_ / kAlarms, *from_step_);
  cut_lines(dir_ / kSamples, *from_step_ - 1, [&](const Json& sample) {
    follow_sample(sample.at("step"), text_at(sample, "prompt"), text_at(sample, "text"));
  });
}

std::vector<Alarm> RunLog::follow(const MetricLine& line) {
  int64_t step = 0;
  MetricLine figures;
  for (const auto& [key, value] : line) {
    if (key == "step") step = int64_t(value);
    else if (key == "time") time_ = value;
    else if (!key.starts_with("idle_expert_")) figures.emplace_back(key, value);
    if (key == "seconds") seconds_ = value;
  }
  if (events_) events_->scalars(step, time_, figures);
  return alarms_.judge(line);
}

void RunLog::follow_sample(int64_t step, const std::string& prompt, const std::string& text) {
  sample_number_ = step == sampled_step_ ? sample_number_ + 1 : 1;
  sampled_step_ = step;
  if (events_) events_->text(step, time_, "samples/" + std::to_string(sample_number_), prompt + text);
}

std::vector<Alarm> RunLog::write(const MetricLine& values) {
  metrics_->write(values);
  const std::vector<Alarm> alarms = follow(values);
  for (const Alarm& one : alarms) alarm(one);
  return alarms;
}

void RunLog::alarm(const Alarm& alarm) {
  append_line(dir_ / kAlarms, line_of({{"step", alarm.step},
                                       {"rule", alarm.rule},
                                       {"figure", alarm.figure},
                                       {"value", alarm.value},
                                       {"bound", alarm.bound},
                                       {"text", alarm.text}}));
}

void RunLog::sample(int64_t step, const std::string& prompt, const std::string& text) {
  append_line(dir_ / kSamples, line_of({{"step", step}, {"prompt", prompt}, {"text", text}}));
  follow_sample(step, prompt, text);
}

}  // namespace fulgur

#include "train/alarms.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace fulgur {
namespace {

constexpr size_t kWindow = 64, kFewest = 8;  // values of a running median

std::string printed(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

double median(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

bool is_size(const std::string& figure) {
  return figure.starts_with("residual_rms_") || figure.starts_with("state_rms_");
}
bool is_gradient(const std::string& figure) { return figure.starts_with("gradient_norm"); }
bool is_entropy(const std::string& figure) { return figure.starts_with("router_entropy_normalised"); }

// N of "PREFIX_N"; empty where the figure has another name.
std::string number_after(const std::string& figure, const std::string& prefix) {
  return figure.starts_with(prefix) ? figure.substr(prefix.size()) : "";
}

}  // namespace

std::string described(const std::string& figure) {
  if (const std::string n = number_after(figure, "residual_rms_"); !n.empty())
    return n == "0" ? "RMS of the embedding's rows"
                    : "RMS of the rows that leave layer " + std::to_string(std::stoll(n) - 1);
  if (const std::string n = number_after(figure, "state_rms_"); !n.empty()) return "RMS of layer " + n + "'s state";
  if (const std::string kind = number_after(figure, "gradient_norm_"); !kind.empty()) return "gradient norm of " + kind;
  if (const std::string n = number_after(figure, "router_entropy_normalised_"); !n.empty())
    return "router entropy of layer " + n;
  if (const std::string ids = number_after(figure, "idle_expert_"); !ids.empty()) {
    const size_t bar = ids.find('_');
    return "expert " + ids.substr(bar + 1) + " of layer " + ids.substr(0, bar);
  }
  if (figure == "gradient_norm") return "gradient norm";
  if (figure == "router_entropy_normalised") return "router entropy";
  return figure == "largest_logit" ? "largest logit" : figure;
}

std::vector<std::string> lines_by_rule(const std::vector<Alarm>& alarms) {
  std::vector<std::string> lines;
  for (size_t i = 0; i < alarms.size(); ++i) {
    const auto same = [&](const Alarm& other) { return other.rule == alarms[i].rule; };
    const auto here = alarms.begin() + long(i);
    if (std::any_of(alarms.begin(), here, same)) continue;
    const auto more = std::count_if(here + 1, alarms.end(), same);
    lines.push_back(alarms[i].text + (more ? "; and " + std::to_string(more) + " more, in alarms.jsonl" : ""));
  }
  return lines;
}

Alarms::Finding Alarms::above_median(const std::string& figure, double value, double factor) const {
  const auto known = earlier_.find(figure);
  if (factor == 0 || known == earlier_.end() || known->second.size() < kFewest) return {false, 0, ""};
  const double middle = median(known->second), bound = factor * middle;
  return {value > bound, bound, printed(value / middle) + " times its median " + printed(middle)};
}

void Alarms::judge_rule(const std::string& rule, const std::string& figure, double value, const Finding& finding,
                        std::vector<Alarm>& alarms) {
  if (!finding.broken) return void(active_.erase({rule, figure}));
  if (!active_.insert({rule, figure}).second) return;
  alarms.push_back({.step = step_,
                    .rule = rule,
                    .figure = figure,
                    .value = value,
                    .bound = finding.bound,
                    .text = "alarm at step " + std::to_string(step_) + ": " + described(figure) + ": " + finding.why +
                            " (alarm." + rule + ")",
                    .stops = rules_.stop.contains(rule)});
}

void Alarms::judge_figure(const std::string& figure, double value, std::vector<Alarm>& alarms) {
  const bool size = is_size(figure), gradient = is_gradient(figure);
  if (is_entropy(figure))
    judge_rule("entropy", figure, value,
               {value < rules_.entropy, rules_.entropy,
                printed(value) + " is below " + printed(rules_.entropy) + " of log experts"},
               alarms);
  if (size)
    judge_rule(
        "rms", figure, value,
        {rules_.rms > 0 && !(value <= rules_.rms), rules_.rms, printed(value) + " is above " + printed(rules_.rms)},
        alarms);
  if (!size && !gradient && figure != "largest_logit") return;
  if (gradient) judge_rule("gradient", figure, value, above_median(figure, value, rules_.gradient), alarms);
  else judge_rule("growth", figure, value, above_median(figure, value, rules_.growth), alarms);
  if (!std::isfinite(value)) return;
  std::deque<double>& earlier = earlier_[figure];
  earlier.push_back(value);
  if (earlier.size() > kWindow) earlier.pop_front();
}

void Alarms::judge_idle(const MetricLine& line, std::vector<Alarm>& alarms) {
  const auto has = [&](const std::string& key) {
    return std::any_of(line.begin(), line.end(), [&](const auto& entry) { return entry.first == key; });
  };
  if (!has("idle_experts")) return;  // health was not measured
  std::map<std::string, int64_t> idle;
  for (const auto& [key, value] : line)
    if (key.starts_with("idle_expert_")) idle[key] = idle_for_[key] + 1;
  for (const auto& [key, steps] : idle_for_)
    if (!idle.contains(key)) active_.erase({"idle", key});
  idle_for_ = idle;
  for (const auto& [key, measured] : idle)
    judge_rule("idle", key, double(measured),
               {rules_.idle > 0 && measured >= rules_.idle, double(rules_.idle),
                "chosen by no token in " + std::to_string(measured) + " measurements in a row"},
               alarms);
}

std::vector<Alarm> Alarms::judge(const MetricLine& line) {
  std::vector<Alarm> alarms;
  for (const auto& [key, value] : line)
    if (key == "step") step_ = int64_t(value);
  for (const auto& [key, value] : line) judge_figure(key, value, alarms);
  judge_idle(line, alarms);
  return alarms;
}

}  // namespace fulgur

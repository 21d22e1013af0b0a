#include "train/run_history.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"
#include "files/folder_lock.h"
#include "files/json_file.h"
#include "train/run_config.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double value_of(const MetricLine& line, const std::string& key) {
  for (const auto& [name, value] : line)
    if (name == key) return value;
  return kNaN;
}

std::vector<RecordedAlarm> read_alarms(const fs::path& file) {
  std::vector<RecordedAlarm> alarms;
  std::istringstream lines(fs::exists(file) ? read_text(file) : "");
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("step") || !object["step"].is_number_integer()) continue;
    const auto text = object.find("text");
    alarms.push_back({object["step"], text != object.end() && text->is_string() ? text->get<std::string>() : "alarm"});
  }
  return alarms;
}

std::string folder_name(const fs::path& run_dir) {
  const fs::path absolute = fs::absolute(run_dir).lexically_normal();
  return (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
}

bool is_locked(const fs::path& run_dir) {
  try {
    const FolderLock lock(run_dir);
    return false;
  } catch (const Error& error) {
    return error.kind() == ErrorKind::invalid_input;
  }
}

}  // namespace

RunHistory::RunHistory(const fs::path& run_dir) : name_(folder_name(run_dir)) {
  const fs::path file = run_dir / "metrics.jsonl";
  if (!fs::is_regular_file(file))
    fail(ErrorKind::not_found, run_dir.string() + ": holds no metrics.jsonl; expected the folder of a run");
  lines_ = read_metrics(file), alarms_ = read_alarms(run_dir / "alarms.jsonl");
  std::set<std::string> known;
  for (const MetricLine& line : lines_) {
    for (const auto& [key, value] : line)
      if (known.insert(key).second) figures_.push_back(key);
    const double step = value_of(line, "step"), tokens = value_of(line, "tokens");
    if (!(step >= 0 && step < 1e9) || std::isnan(tokens)) continue;
    const double seconds = value_of(line, "seconds"), rate = value_of(line, "tokens_per_second");
    if (tokens_.size() <= size_t(step)) tokens_.resize(size_t(step) + 1, kNaN), seconds_.resize(size_t(step) + 1, kNaN);
    tokens_[size_t(step)] = tokens;
    seconds_[size_t(step)] = std::isnan(seconds) ? tokens / rate : seconds;  // older runs say only their rate
  }
}

double RunHistory::place_of(int64_t step, RunAxis axis) const {
  if (axis == RunAxis::step) return double(step);
  const std::vector<double>& places = axis == RunAxis::tokens ? tokens_ : seconds_;
  return step >= 0 && size_t(step) < places.size() ? places[size_t(step)] : kNaN;
}

std::vector<ChartPoint> RunHistory::series(const std::string& figure, RunAxis axis) const {
  std::vector<ChartPoint> points;
  for (const MetricLine& line : lines_)
    for (const auto& [key, value] : line) {
      if (key != figure) continue;
      const double x = place_of(int64_t(value_of(line, "step")), axis);
      if (std::isfinite(x)) points.push_back({x, value});
    }
  std::stable_sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
  return points;
}

std::vector<std::string> RunHistory::figures(const std::string& prefix) const {
  std::vector<std::string> found;
  for (const std::string& figure : figures_)
    if (figure.starts_with(prefix)) found.push_back(figure);
  return found;
}

std::vector<int64_t> RunHistory::numbers(const std::string& prefix) const {
  std::vector<int64_t> found;
  for (const std::string& figure : figures(prefix)) {
    const std::string digits = figure.substr(prefix.size());
    if (!digits.empty() && digits.size() < 10 && std::all_of(digits.begin(), digits.end(), ::isdigit))
      found.push_back(std::stoll(digits));
  }
  std::sort(found.begin(), found.end());
  return found;
}

RunSummary summary_of(const fs::path& run_dir) {
  const RunHistory history(run_dir);
  const auto last = [&](const std::string& figure) {
    const std::vector<ChartPoint> points = history.series(figure, RunAxis::step);
    return points.empty() ? ChartPoint{0, kNaN} : points.back();
  };
  RunSummary summary{.name = history.name(), .state = "stopped", .started = ""};
  if (is_locked(run_dir)) summary.state = "running";
  else if (fs::exists(run_dir / "model" / "config.json")) summary.state = "finished";
  summary.step = int64_t(last("loss").x), summary.loss = last("loss").y;
  summary.tokens = last("tokens").y, summary.tokens_per_second = last("tokens_per_second").y;
  summary.bits_per_byte = last("validation_bits_per_byte").y;
  summary.seconds = history.place_of(summary.step, RunAxis::seconds);
  summary.alarms = int64_t(history.alarms().size());
  if (fs::exists(run_dir / "run.toml")) {
    const nlohmann::ordered_json keys = configuration_of(run_dir);
    if (const auto steps = keys.find("train.steps"); steps != keys.end() && steps->is_number_integer())
      summary.steps = steps->get<int64_t>();
  }
  const std::vector<ChartPoint> times = history.series("time", RunAxis::step);
  if (!times.empty() && std::isfinite(times.front().y)) {
    const double spent = history.place_of(int64_t(times.front().x), RunAxis::seconds);
    const std::time_t start = std::time_t(times.front().y - (std::isfinite(spent) ? spent : 0));
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", std::localtime(&start));
    summary.started = text;
  }
  return summary;
}

std::vector<fs::path> runs_in(const fs::path& folder) {
  constexpr int kDepth = 3;
  if (!fs::is_directory(folder)) fail(ErrorKind::not_found, folder.string() + ": no such folder");
  std::vector<fs::path> runs;
  if (fs::exists(folder / "metrics.jsonl")) runs.push_back(folder);
  std::error_code error;
  fs::recursive_directory_iterator at(folder, fs::directory_options::skip_permission_denied, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    if (at.depth() >= kDepth) at.disable_recursion_pending();
    if (!at->is_directory(error) || !fs::exists(at->path() / "metrics.jsonl", error)) continue;
    runs.push_back(at->path());
    at.disable_recursion_pending();
  }
  std::sort(runs.begin(), runs.end());
  return runs;
}

nlohmann::ordered_json configuration_of(const fs::path& run_dir) {
  return nlohmann::ordered_json::parse(keys_of(run_dir / "run.toml"));
}

}  // namespace fulgur

#include "train/run_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/error.h"
#include "base/progress.h"

namespace fulgur {
namespace {

constexpr size_t kMostRuns = 8, kDepths = 8;  // colours
constexpr size_t kSmoothedFrom = 50;          // points
constexpr const char* kPart = "validation_bits_per_byte/";

std::string printed(const char* format, double value) {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string run_color(size_t run) { return "run" + std::to_string(run); }

std::string depth_color(size_t layer, size_t layers) {
  return "depth" + std::to_string(layers < 2 ? kDepths / 2 : layer * (kDepths - 1) / (layers - 1));
}

// The value at the end of a line that stands alone.
std::string last_value(const std::vector<ChartPoint>& points) {
  if (points.empty() || !std::isfinite(points.back().y)) return "";
  const double value = points.back().y;
  return std::fabs(value) >= 1e4 ? short_number(value) : printed("%.4g", value);
}

class Panels {
 public:
  Panels(const std::vector<RunHistory>& runs, RunAxis axis) : runs_(runs), axis_(axis) {}

  // One figure of every run.
  void figure(const std::string& title, const std::string& unit, const std::string& figure, bool smooth = false) {
    ChartPanel panel{title, unit, {}};
    for (size_t run = 0; run < runs_.size(); ++run) curve(panel, run, runs_[run].series(figure, axis_), smooth);
    add(std::move(panel));
  }

  // Tokens over seconds from line to line, or where a run does not say its seconds, its own rate.
  void speed() {
    ChartPanel panel{"Speed", "tokens per second", {}};
    for (size_t run = 0; run < runs_.size(); ++run) {
      const std::vector<ChartPoint> seconds = runs_[run].series("seconds", axis_),
                                    tokens = runs_[run].series("tokens", axis_);
      std::vector<ChartPoint> rates;
      for (size_t i = 1; i < seconds.size() && seconds.size() == tokens.size(); ++i)
        if (seconds[i].y > seconds[i - 1].y)
          rates.push_back({tokens[i].x, (tokens[i].y - tokens[i - 1].y) / (seconds[i].y - seconds[i - 1].y)});
      curve(panel, run, rates.empty() ? runs_[run].series("tokens_per_second", axis_) : rates, true);
    }
    add(std::move(panel));
  }

  // Points with the line through them.
  void validation() {
    ChartPanel panel{"Validation", "bits per byte", {}};
    for (size_t run = 0; run < runs_.size(); ++run) {
      const std::vector<ChartPoint> points = runs_[run].series("validation_bits_per_byte", axis_);
      if (points.empty()) continue;
      const bool divided = runs_.size() == 1 && !runs_[0].figures(kPart).empty();
      panel.lines.push_back({divided ? "all" : last_value(points), run_color(run), ChartLine::Style::line, points});
      panel.lines.push_back({"", run_color(run), ChartLine::Style::dots, points});
      if (divided) parts(panel);
    }
    add(std::move(panel));
  }

  // PREFIX_N of every layer N.
  void layers(const std::string& title, const std::string& unit, const std::string& prefix, bool least = false) {
    const bool alone = runs_.size() == 1;
    ChartPanel panel{title + (alone ? ", by layer" : least ? ", least layer" : ", greatest layer"), unit, {}};
    for (size_t run = 0; run < runs_.size(); ++run) {
      const std::vector<int64_t> numbers = runs_[run].numbers(prefix);
      std::map<double, double> extreme;
      for (size_t i = 0; i < numbers.size(); ++i) {
        const std::string number = std::to_string(numbers[i]);
        const std::vector<ChartPoint> points = runs_[run].series(prefix + number, axis_);
        const bool named = i == 0 || i + 1 == numbers.size();
        if (alone)
          panel.lines.push_back(
              {named ? "layer " + number : "", depth_color(i, numbers.size()), ChartLine::Style::line, points});
        for (const ChartPoint& p : points) {
          const auto [place, is_new] = extreme.emplace(p.x, p.y);
          if (!is_new) place->second = least ? std::min(place->second, p.y) : std::max(place->second, p.y);
        }
      }
      std::vector<ChartPoint> points;
      for (const auto& [x, y] : extreme) points.push_back({x, y});
      if (!alone && !points.empty())
        panel.lines.push_back({last_value(points), run_color(run), ChartLine::Style::line, points});
    }
    add(std::move(panel));
  }

  // gradient_norm_KIND of one run: several would be too many lines.
  void kinds() {
    if (runs_.size() > 1) return;
    ChartPanel panel{"Gradient norm", "by kind of parameter", {}};
    for (const std::string& figure : runs_[0].figures("gradient_norm_")) {
      const std::string kind = figure.substr(std::string("gradient_norm_").size());
      panel.lines.push_back(
          {kind, run_color(panel.lines.size() % kMostRuns), ChartLine::Style::line, runs_[0].series(figure, axis_)});
    }
    add(std::move(panel));
  }

  // Under the loss of every run.
  void alarms(ChartPanel& panel) const {
    for (const RunHistory& run : runs_)
      for (const RecordedAlarm& alarm : run.alarms()) {
        const double x = run.place_of(alarm.step, axis_);
        if (std::isfinite(x)) panel.marks.push_back({x, (runs_.size() > 1 ? run.name() + ": " : "") + alarm.text});
      }
  }

  std::vector<ChartPanel> take() {
    if (!panels_.empty()) alarms(panels_.front());
    return std::move(panels_);
  }

 private:
  // With the raw points faint behind the smoothed where there are many.
  void curve(ChartPanel& panel, size_t run, std::vector<ChartPoint> points, bool smooth) const {
    if (points.empty()) return;
    if (smooth && points.size() >= kSmoothedFrom) {
      panel.lines.push_back({"", run_color(run), ChartLine::Style::faint, points});
      points = smoothed(points);
    }
    panel.lines.push_back({last_value(points), run_color(run), ChartLine::Style::line, points});
  }
  void parts(ChartPanel& panel) const {
    size_t color = 1;
    for (const std::string& figure : runs_[0].figures(kPart))
      panel.lines.push_back({figure.substr(std::string(kPart).size()), run_color(color++ % kMostRuns),
                             ChartLine::Style::line, runs_[0].series(figure, axis_)});
  }
  void add(ChartPanel panel) {
    if (!panel.lines.empty()) panels_.push_back(std::move(panel));
  }

  const std::vector<RunHistory>& runs_;
  const RunAxis axis_;
  std::vector<ChartPanel> panels_;
};

bool drops(const RunHistory& run) {
  const std::vector<ChartPoint> points = run.series("drop_rate", RunAxis::step);
  return std::any_of(points.begin(), points.end(), [](const ChartPoint& p) { return p.y > 0; });
}

const char* name_of(RunAxis axis) {
  return axis == RunAxis::step ? "steps" : axis == RunAxis::tokens ? "tokens" : "seconds";
}

}  // namespace

std::vector<ChartPoint> smoothed(const std::vector<ChartPoint>& points) {
  const size_t reach = points.size() / 100;
  std::vector<ChartPoint> result;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t near = std::min({reach, i, points.size() - 1 - i});  // as far to both sides
    double sum = 0;
    for (size_t j = i - near; j <= i + near; ++j) sum += points[j].y;
    result.push_back({points[i].x, sum / double(2 * near + 1)});
  }
  return result;
}

Chart chart_of(const std::vector<RunHistory>& runs, RunAxis axis) {
  if (runs.empty() || runs.size() > kMostRuns)
    fail(ErrorKind::invalid_input, std::to_string(runs.size()) + " runs: expected one to " + std::to_string(kMostRuns) +
                                       ", the curves that can be told apart");
  Panels panels(runs, axis);
  panels.figure("Training loss", "nats per token", "loss", true);
  panels.validation();
  panels.figure("Learning rate", "", "lr");
  panels.figure("Gradient norm", "before clipping", "gradient_norm", true);
  panels.speed();
  panels.kinds();
  panels.layers("Rows that enter layers", "RMS", "residual_rms_");
  panels.layers("Lightning state", "RMS", "state_rms_");
  panels.figure("Largest logit", "", "largest_logit");
  panels.layers("Router entropy", "of log experts", "router_entropy_normalised_", true);
  panels.figure("Greatest load of an expert", "over the mean", "expert_load_max", true);
  if (std::any_of(runs.begin(), runs.end(), drops)) panels.figure("Dropped choices", "share", "drop_rate");
  Chart chart{.title = "", .subtitle = "", .x_name = name_of(axis), .legend = {}, .panels = panels.take()};
  for (size_t i = 0; i < runs.size(); ++i) {
    chart.title += (i ? ", " : "") + runs[i].name();
    if (runs.size() > 1) chart.legend.emplace_back(runs[i].name(), run_color(i));
  }
  const std::vector<ChartPoint> tokens = runs[0].series("tokens", RunAxis::step);
  if (runs.size() > 1) chart.subtitle = std::to_string(runs.size()) + " runs over each other";
  else if (!tokens.empty())
    chart.subtitle = std::to_string(int64_t(tokens.back().x)) + " steps, " + short_number(tokens.back().y) + " tokens";
  return chart;
}

}  // namespace fulgur

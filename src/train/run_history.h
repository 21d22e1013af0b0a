// RunHistory: what a run's folder says of it, read back from the files it writes (docs/formats.md).
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/chart.h"
#include "train/metrics.h"

namespace fulgur {

enum class RunAxis : uint8_t { step, tokens, seconds };

struct RecordedAlarm {
  int64_t step;
  std::string text;
};

class RunHistory {
 public:
  // Throws not_found for a folder without a metrics.jsonl.
  explicit RunHistory(const std::filesystem::path& run_dir);

  const std::string& name() const { return name_; }  // of the folder
  const std::vector<RecordedAlarm>& alarms() const { return alarms_; }
  // Of a figure's lines, in their order; NaN stays NaN. Validations and alarms lie at their step's tokens and seconds.
  std::vector<ChartPoint> series(const std::string& figure, RunAxis axis) const;
  double place_of(int64_t step, RunAxis axis) const;
  // Numbers N of the figures PREFIX_N, ascending.
  std::vector<int64_t> numbers(const std::string& prefix) const;
  // Figures whose names begin so, in the order of their appearance.
  std::vector<std::string> figures(const std::string& prefix) const;

 private:
  std::string name_;
  std::vector<MetricLine> lines_;
  std::vector<RecordedAlarm> alarms_;
  std::vector<double> tokens_, seconds_;  // by step, NaN where it has no line
  std::vector<std::string> figures_;
};

// A run at a glance. NaN and negative: not known.
struct RunSummary {
  std::string name, state;  // state: running, finished, or stopped
  std::string started;      // "2026-01-31 12:00", local time; empty: not known
  int64_t step = 0, steps = -1;
  double tokens = 0, loss = 0, bits_per_byte = 0, tokens_per_second = 0, seconds = 0;
  int64_t alarms = 0;
};

RunSummary summary_of(const std::filesystem::path& run_dir);

// The runs in a folder, by name: its subfolders that hold a metrics.jsonl, at any depth down to three.
std::vector<std::filesystem::path> runs_in(const std::filesystem::path& folder);

// run.toml as an object of section.key to value.
nlohmann::ordered_json configuration_of(const std::filesystem::path& run_dir);

}  // namespace fulgur

// What a run says of itself: metrics.jsonl, one object a line, and the loss curve for the terminal.
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace fulgur {

using MetricLine = std::vector<std::pair<std::string, double>>;

class Metrics {
 public:
  // Goes on at the end of the file, which is created where there is none. Throws not_found when it cannot.
  explicit Metrics(const std::filesystem::path& file);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // One line, written through at once. Numbers print so that they read back equal; one that is not finite as null.
  void write(const MetricLine& values);
  // Returns when all lines are on the disk.
  void flush();

 private:
  std::string name_;
  std::FILE* file_;
};

// Cuts metrics.jsonl back to what a run that goes on after `step` does not write again: the lines of the steps up to
// there, the validations before it. A line that is no JSON object goes too. Returns the losses that stay.
std::vector<double> cut_metrics(const std::filesystem::path& file, int64_t step);

// The lines of a metrics.jsonl in their order, NaN for null; what is no number of a step's line is left out. Empty
// where there is no file.
std::vector<MetricLine> read_metrics(const std::filesystem::path& file);

// Cuts a file of one object a line back to those with a `step` up to the one given, and shows each. Nothing where there
// is no file.
void cut_lines(const std::filesystem::path& file, int64_t step,
               const std::function<void(const nlohmann::ordered_json&)>& show = {});
// Adds a line to a file, which is created where there is none. Throws not_found when it cannot.
void append_line(const std::filesystem::path& file, const std::string& line);

// A curve of `values` in `height` lines of at most `width` cells, with its scale; one string with line ends.
std::string loss_curve(const std::vector<double>& values, int width, int height);

}  // namespace fulgur

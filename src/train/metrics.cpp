#include "train/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "files/atomic.h"
#include "files/disk.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Metrics::Metrics(const std::filesystem::path& file) : name_(file.string()), file_(std::fopen(file.c_str(), "a")) {
  if (!file_) fail(ErrorKind::not_found, name_ + ": cannot be written");
}

Metrics::~Metrics() { std::fclose(file_); }

void Metrics::write(const MetricLine& values) {
  std::string line = "{";
  for (const auto& [key, value] : values) {
    char number[40];
    std::snprintf(number, sizeof number, std::isfinite(value) ? "%.17g" : "null", value);
    line += (line.size() > 1 ? ", " : "") + quoted(key) + ": " + number;
  }
  if (std::fprintf(file_, "%s}\n", line.c_str()) < 0 || std::fflush(file_) != 0)
    fail(ErrorKind::not_found, name_ + ": cannot be written; is the disk full?");
}

void Metrics::flush() { disk::flush(fileno(file_), name_); }

std::vector<double> cut_metrics(const std::filesystem::path& file, int64_t step) {
  std::vector<double> losses;
  std::string kept;
  std::istringstream lines(std::filesystem::exists(file) ? read_text(file) : "");
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json values = nlohmann::json::parse(line, nullptr, false);
    if (!values.is_object() || !values.contains("step") || !values["step"].is_number()) continue;
    const double at = values["step"];
    const bool loss = values.contains("loss") && values["loss"].is_number();
    if (at > double(step) || (at == double(step) && !loss)) continue;
    if (loss) losses.push_back(values["loss"]);
    kept += line + "\n";
  }
  write_file(file, kept);
  return losses;
}

std::vector<MetricLine> read_metrics(const std::filesystem::path& file) {
  std::vector<MetricLine> all;
  std::istringstream lines(std::filesystem::exists(file) ? read_text(file) : "");
  for (std::string line; std::getline(lines, line);) {
    const auto values = nlohmann::ordered_json::parse(line, nullptr, false);
    if (!values.is_object() || !values.contains("step") || !values["step"].is_number()) continue;
    MetricLine& numbers = all.emplace_back();
    for (const auto& [key, value] : values.items())
      if (value.is_number() || value.is_null())
        numbers.emplace_back(key, value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return all;
}

void cut_lines(const std::filesystem::path& file, int64_t step,
               const std::function<void(const nlohmann::ordered_json&)>& show) {
  if (!std::filesystem::exists(file)) return;
  std::string kept;
  const std::string all = read_text(file);
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::ordered_json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("step") || !object["step"].is_number_integer()) continue;
    if (object["step"].get<int64_t>() > step) continue;
    if (show) show(object);
    kept += line + "\n";
  }
  if (kept != all) write_file(file, kept);
}

void append_line(const std::filesystem::path& file, const std::string& line) {
  std::FILE* out = std::fopen(file.c_str(), "a");
  const bool written = out && std::fprintf(out, "%s\n", line.c_str()) >= 0;
  if ((out && std::fclose(out) != 0) || !written)
    fail(ErrorKind::not_found, file.string() + ": cannot be written; is the disk full?");
}

std::string loss_curve(const std::vector<double>& values, int width, int height) {
  if (values.size() < 2) return {};
  const size_t cells = std::min(size_t(width), values.size());
  std::vector<double> mean(cells);
  for (size_t c = 0; c < cells; ++c) {
    const size_t begin = c * values.size() / cells, end = (c + 1) * values.size() / cells;
    for (size_t i = begin; i < end; ++i) mean[c] += values[i] / double(end - begin);
  }
  const auto [low, high] = std::minmax_element(mean.begin(), mean.end());
  const double span = std::max(*high - *low, 1e-9);
  std::string curve;
  for (int line = height - 1; line >= 0; --line) {
    char label[32];
    std::snprintf(label, sizeof label, "%8.3f |", *low + span * line / std::max(height - 1, 1));
    curve += label;
    for (const double m : mean) curve += std::lround((m - *low) / span * (height - 1)) == line ? '*' : ' ';
    while (curve.back() == ' ') curve.pop_back();
    curve += '\n';
  }
  return curve + "         +" + std::string(cells, '-') + " step " + std::to_string(values.size()) + "\n";
}

}  // namespace fulgur

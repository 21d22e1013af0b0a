#include "train/metrics.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fulgur {

Metrics::Metrics(const std::filesystem::path& file) : name_(file.string()), file_(std::fopen(file.c_str(), "w")) {
  if (!file_) fail(ErrorKind::not_found, name_ + ": cannot be written");
}

Metrics::~Metrics() { std::fclose(file_); }

void Metrics::write(const std::vector<std::pair<std::string, double>>& values) {
  std::string line = "{";
  for (const auto& [key, value] : values) {
    char number[40];
    std::snprintf(number, sizeof number, std::isfinite(value) ? "%.17g" : "null", value);
    line += (line.size() > 1 ? ", \"" : "\"") + key + "\": " + number;
  }
  if (std::fprintf(file_, "%s}\n", line.c_str()) < 0 || std::fflush(file_) != 0)
    fail(ErrorKind::not_found, name_ + ": cannot be written; is the disk full?");
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

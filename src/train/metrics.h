// What a run says of itself: metrics.jsonl, one object a line, and the loss curve for the terminal.
#pragma once
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace fulgur {

class Metrics {
 public:
  // Creates the file. Throws not_found when it cannot.
  explicit Metrics(const std::filesystem::path& file);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // One line, written through at once. Numbers print so that they read back equal; one that is not finite as null.
  void write(const std::vector<std::pair<std::string, double>>& values);

 private:
  std::string name_;
  std::FILE* file_;
};

// A curve of `values` in `height` lines of at most `width` cells, with its scale; one string with line ends.
std::string loss_curve(const std::vector<double>& values, int width, int height);

}  // namespace fulgur

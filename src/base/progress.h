// Progress of long work on standard error: one line that is redrawn on a terminal, plain lines in a pipe.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace fulgur {

class Progress {
 public:
  // label: what is done; unit: what is counted, for the rate ("tokens"); first: of total, what was done before.
  Progress(std::string label, int64_t total, std::string unit, int64_t first = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Shows done, rate and time left, and `note`; at most ten times a second on a terminal, every ten seconds in a pipe.
  // `units` done since the start drive the rate; units_left: where those of total are not alike, for the time left.
  void update(int64_t done, int64_t units, const std::string& note = {}, std::optional<int64_t> units_left = {});
  // A line that stays, above the redrawn one.
  void say(const std::string& line);
  double seconds() const;  // since the start

 private:
  void draw(const std::string& line, bool last);

  std::string label_, unit_;
  int64_t total_, first_;
  bool terminal_;
  double start_, shown_ = -1e9;
  bool open_ = false;  // a redrawn line stands without its newline
};

double monotonic_seconds();

// Seconds to come at the pace of those that passed: by units, or by what is counted where units_left is not known.
// Nothing where there is no pace yet.
std::optional<double> seconds_left(double passed, int64_t done, int64_t left, int64_t units,
                                   std::optional<int64_t> units_left);

// "1.2 k", "3.40 M": three digits and a prefix.
std::string short_number(double value);
// "45 s", "3 min 05 s", "2 h 07 min".
std::string short_time(double seconds);

}  // namespace fulgur

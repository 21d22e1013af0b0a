#include "base/progress.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>

namespace fulgur {
namespace {

constexpr double kTerminalSeconds = 0.1, kPipeSeconds = 10;

std::string printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string short_number(double value) {
  constexpr const char* kPrefix[] = {"", " k", " M", " G", " T"};
  int i = 0;
  for (; i < 4 && value >= 1000; ++i) value /= 1000;
  return printed(value >= 100 || (i == 0 && value == double(int64_t(value))) ? "%.0f"
                 : value >= 10                                               ? "%.1f"
                                                                             : "%.2f",
                 value) +
         kPrefix[i];
}

std::string short_time(double seconds) {
  const int64_t s = seconds > 0 ? int64_t(seconds + 0.5) : 0;
  char text[64];
  if (s < 60) std::snprintf(text, sizeof text, "%d s", int(s));
  else if (s < 3600) std::snprintf(text, sizeof text, "%d min %02d s", int(s / 60), int(s % 60));
  else std::snprintf(text, sizeof text, "%lld h %02d min", static_cast<long long>(s / 3600), int(s / 60 % 60));
  return text;
}

Progress::Progress(std::string label, int64_t total, std::string unit, int64_t first)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      first_(first),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(monotonic_seconds()) {}

Progress::~Progress() {
  if (open_) std::fputc('\n', stderr);
}

double Progress::seconds() const { return monotonic_seconds() - start_; }

std::optional<double> seconds_left(double passed, int64_t done, int64_t left, int64_t units,
                                   std::optional<int64_t> units_left) {
  const int64_t paced = units_left ? units : done;
  if (paced <= 0) return std::nullopt;
  return passed * double(units_left.value_or(left)) / double(paced);
}

void Progress::update(int64_t done, int64_t units, const std::string& note, std::optional<int64_t> units_left) {
  const double now = monotonic_seconds(), passed = now - start_;
  const bool last = done >= total_;
  if (!last && now - shown_ < (terminal_ ? kTerminalSeconds : kPipeSeconds)) return;
  shown_ = now;
  const double rate = passed > 0 ? double(units) / passed : 0;
  std::string line = label_ + " " + std::to_string(done) + "/" + std::to_string(total_);
  if (terminal_) {
    constexpr int kCells = 20;
    const int full = total_ > 0 ? int(double(kCells) * double(done) / double(total_)) : kCells;
    line += " [" + std::string(size_t(full), '#') + std::string(size_t(kCells - full), '.') + "]";
  }
  if (!note.empty()) line += "  " + note;
  line += "  " + short_number(rate) + " " + unit_ + "/s";
  const std::optional<double> left = seconds_left(passed, done - first_, total_ - done, units, units_left);
  if (left && !last) line += "  ETA " + short_time(*left);
  if (last) line += "  in " + short_time(passed);
  draw(line, last);
}

void Progress::draw(const std::string& line, bool last) {
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  std::fprintf(stderr, "\r\033[K%s%s", line.c_str(), last ? "\n" : "");
  std::fflush(stderr);
  open_ = !last;
}

void Progress::say(const std::string& line) {
  std::fprintf(stderr, "%s%s\n", open_ ? "\r\033[K" : "", line.c_str());
  open_ = false;
}

}  // namespace fulgur

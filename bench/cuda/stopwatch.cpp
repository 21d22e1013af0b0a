#include "bench/cuda/stopwatch.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "device/event.h"
#include "device/graph.h"

namespace fulgur::bench {
namespace {

constexpr double kShort = 25e-6;  // seconds of a call that is replayed in a graph: launches would be timed
constexpr double kRound = 4e-3;   // seconds between two events, where a call is not longer
constexpr int kLeastRounds = 7;
constexpr int64_t kGraphCalls = 128;  // at least, of one graph

// Seconds between two events round body(). A call of the body before them keeps the card busy while the host catches
// up.
double seconds_of(Stream& stream, const std::function<void()>& before, const std::function<void()>& body) {
  StreamEvent start, stop;
  before();
  start.record(stream);
  body();
  stop.record(stream);
  return stop.seconds_since(start);
}

}  // namespace

CallTime time_calls(Stream& stream, int64_t sets, double least_seconds, const std::function<void(int64_t)>& run) {
  int64_t number = 0;
  const auto several = [&](int64_t calls) {
    for (int64_t i = 0; i < calls; ++i) run(number++);
  };
  several(sets);
  stream.synchronize();
  const double first = seconds_of(
                           stream, [&] { run(number++); }, [&] { several(sets); }) /
                       double(sets);

  CallTime time;
  time.graph = first < kShort;
  int64_t calls = std::clamp<int64_t>(int64_t(kRound / first), 1, 256);
  std::unique_ptr<Graph> graph;
  int64_t replays = 1;
  if (time.graph) {
    calls = (kGraphCalls + sets - 1) / sets * sets;
    graph = std::make_unique<Graph>(stream, [&] { several(calls); });
    graph->launch(stream);
    replays = std::max<int64_t>(1, int64_t(kRound / (first * double(calls))));
  }
  const auto round = [&] {
    for (int64_t i = 0; i < replays; ++i) graph ? graph->launch(stream) : several(calls);
  };
  std::vector<double> seconds;
  double passed = 0;
  while (int(seconds.size()) < kLeastRounds || passed < least_seconds) {
    const double s = seconds_of(
        stream, [&] { graph ? graph->launch(stream) : run(number++); }, round);
    seconds.push_back(s / double(calls * replays));
    passed += s;
  }
  std::sort(seconds.begin(), seconds.end());
  time.seconds = seconds[seconds.size() / 2];
  time.spread = (seconds.back() - seconds.front()) / time.seconds;
  time.calls = calls * replays * int64_t(seconds.size());
  return time;
}

}  // namespace fulgur::bench

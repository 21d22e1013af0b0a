// Times of a call on the card: events round many launches, or round replays of a graph where a launch is short.
#pragma once
#include <cstdint>
#include <functional>

#include "device/stream.h"

namespace fulgur::bench {

struct CallTime {
  double seconds = 0;  // of one call: the median
  double spread = 0;   // (longest - shortest) / median of the repetitions
  int64_t calls = 0;
  bool graph = false;
};

// run(i) gives the stream call number i; all are warmed up by the first `sets` calls, which use different operands.
CallTime time_calls(Stream& stream, int64_t sets, double least_seconds, const std::function<void(int64_t)>& run);

}  // namespace fulgur::bench

// Event: a moment of a CUDA stream's work, for times between two of them.
#pragma once
#include "device/cuda_timing.h"
#include "device/stream.h"

namespace fulgur {

class Event {
 public:
  Event() : native_(cuda::create_event()) {}
  ~Event() { cuda::destroy_event(native_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream& stream) { cuda::record_event(native_, stream.native()); }
  // Waits until this event has happened. Both are recorded.
  double seconds_since(const Event& earlier) const { return cuda::seconds_between(earlier.native_, native_); }

 private:
  void* native_;
};

}  // namespace fulgur

// StreamEvent: a moment of a CUDA stream's work, for times between two of them.
#pragma once
#include "device/cuda_timing.h"
#include "device/stream.h"

namespace fulgur {

class StreamEvent {
 public:
  StreamEvent() : native_(cuda::create_event()) {}
  ~StreamEvent() { cuda::destroy_event(native_); }
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;

  void record(Stream& stream) { cuda::record_event(native_, stream.native()); }
  // Waits until this event has happened. Both are recorded.
  double seconds_since(const StreamEvent& earlier) const { return cuda::seconds_between(earlier.native_, native_); }

 private:
  void* native_;
};

}  // namespace fulgur

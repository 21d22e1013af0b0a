// Graph: a stretch of a CUDA stream's work, captured once and launched as a whole, without the host's part in each
// call.
#pragma once
#include "device/cuda_timing.h"
#include "device/stream.h"

namespace fulgur {

class Graph {
 public:
  // What body() gives the stream; it must not wait for the stream. Where body throws, the program's stream is lost.
  template <class Body>
  Graph(Stream& stream, const Body& body) {
    cuda::begin_capture(stream.native());
    body();
    native_ = cuda::end_capture(stream.native());
  }
  ~Graph() { cuda::destroy_graph(native_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  bool ready() const { return native_ != nullptr; }  // false: the device has no memory for it
  void launch(Stream& stream) const { cuda::launch_graph(native_, stream.native()); }

 private:
  void* native_ = nullptr;
};

}  // namespace fulgur

// The calls to CUDA's run time that timing needs: what card it is, events, graphs. As cuda_calls.h, they throw
// `device`.
#pragma once
#include <cstdint>
#include <string>

#include "base/tensor.h"

namespace fulgur::cuda {

struct CudaCard {
  std::string name, capability;  // "9.0"
  int cuda_version = 0;          // what the driver speaks: 13000 is 13.0
  int multiprocessors = 0;
  int64_t cache_bytes = 0, free_bytes = 0;  // of the L2 cache; of its memory, at this moment
};
CudaCard card_of(DeviceId device);

void* create_event();
void destroy_event(void* event) noexcept;
void record_event(void* event, void* stream);
double seconds_between(void* start, void* stop);  // waits for `stop`
void hold(void* stream, double seconds);          // what follows begins that much later

// What the stream is given between the two is not run but becomes the graph. Null: the device has no memory for it.
void begin_capture(void* stream);
void* end_capture(void* stream);
void launch_graph(void* graph, void* stream);
void destroy_graph(void* graph) noexcept;

}  // namespace fulgur::cuda

#include <chrono>
#include <memory>
#include <thread>

#include "device/cuda_timing.h"
#include "device/launch.cuh"

namespace fulgur::cuda {
namespace {

void CUDART_CB sleep_for(void* seconds) {
  const std::unique_ptr<double> owned(static_cast<double*>(seconds));
  std::this_thread::sleep_for(std::chrono::duration<double>(*owned));
}

}  // namespace

CudaCard card_of(DeviceId device) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device.index), "cudaGetDeviceProperties");
  CudaCard card{.name = properties.name,
                .capability = std::to_string(properties.major) + "." + std::to_string(properties.minor),
                .multiprocessors = properties.multiProcessorCount,
                .cache_bytes = properties.l2CacheSize};
  check(cudaDriverGetVersion(&card.cuda_version), "cudaDriverGetVersion");
  size_t free_bytes = 0, total = 0;
  check(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
  card.free_bytes = int64_t(free_bytes);
  return card;
}

void* create_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return event;
}

void destroy_event(void* event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

void record_event(void* event, void* stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)), "cudaEventRecord");
}

double seconds_between(void* start, void* stop) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(stop)), "cudaEventSynchronize");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start), static_cast<cudaEvent_t>(stop)),
        "cudaEventElapsedTime");
  return double(milliseconds) * 1e-3;
}

void hold(void* stream, double seconds) {
  auto given = std::make_unique<double>(seconds);
  check(cudaLaunchHostFunc(static_cast<cudaStream_t>(stream), sleep_for, given.get()), "cudaLaunchHostFunc");
  (void)given.release();  // sleep_for's
}

void begin_capture(void* stream) {
  check(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeRelaxed),
        "cudaStreamBeginCapture");
}

void* end_capture(void* stream) {
  cudaGraph_t recorded = nullptr;
  check(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &recorded), "cudaStreamEndCapture");
  cudaGraphExec_t graph = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&graph, recorded, 0);
  cudaGraphDestroy(recorded);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // or the next launch would be told of it
    return nullptr;
  }
  check(status, "cudaGraphInstantiate");
  return graph;
}

void launch_graph(void* graph, void* stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)), "cudaGraphLaunch");
}

void destroy_graph(void* graph) noexcept {
  if (graph) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

}  // namespace fulgur::cuda

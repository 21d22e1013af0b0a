// Scratch: memory that one call of a twin needs, in the stream's order, from the device's own pool.
#pragma once
#include <cstdint>
#include <mutex>

#include "device/launch.cuh"

namespace fulgur::cuda {

class Scratch {
 public:
  Scratch(Stream& stream, size_t bytes) : stream_(static_cast<cudaStream_t>(stream.native())) {
    keep_memory(stream.device().index);
    const cudaError_t status = cudaMallocAsync(&data_, bytes, stream_);
    if (status == cudaErrorMemoryAllocation)
      fail(ErrorKind::out_of_memory, "CUDA device " + std::to_string(stream.device().index) + ": " +
                                         std::to_string(bytes) + " bytes of scratch asked");
    check(status, "cudaMallocAsync");
  }
  ~Scratch() { cudaFreeAsync(data_, stream_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  // The device's pool keeps its memory when a stream is waited for. Said once: not allowed while a graph is captured.
  static void keep_memory(uint8_t device) {
    static std::once_flag said[UINT8_MAX + 1];
    std::call_once(said[device], [=] {
      cudaMemPool_t pool = nullptr;
      check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
      uint64_t kept = UINT64_MAX;
      check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "cudaMemPoolSetAttribute");
    });
  }

  cudaStream_t stream_;
  void* data_ = nullptr;
};

}  // namespace fulgur::cuda

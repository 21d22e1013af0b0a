// Scratch: memory that one call of a twin needs, in the stream's order, from the device's own pool.
#pragma once
#include <cstdint>

#include "device/launch.cuh"

namespace fulgur::cuda {

class Scratch {
 public:
  Scratch(Stream& stream, size_t bytes) : stream_(static_cast<cudaStream_t>(stream.native())) {
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, stream.device().index), "cudaDeviceGetDefaultMemPool");
    uint64_t kept = UINT64_MAX;  // by the pool, when a stream is waited for
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "cudaMemPoolSetAttribute");
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
  cudaStream_t stream_;
  void* data_ = nullptr;
};

}  // namespace fulgur::cuda

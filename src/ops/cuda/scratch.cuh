// Scratch: memory that one call of a twin needs, in the stream's order: what was lent to the stream, else the device's
// own pool. Scratch of one call ends in the opposite order of its beginning.
#pragma once
#include <cstdint>
#include <mutex>

#include "device/launch.cuh"

namespace fulgur::cuda {

class Scratch {
 public:
  Scratch(Stream& stream, size_t bytes)
      : stream_(stream), data_(stream.take_workspace(bytes)), lent_(data_ != nullptr) {
    if (lent_) return;
    keep_memory(stream.device().index);
    const cudaError_t status = cudaMallocAsync(&data_, bytes, native());
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // or the next launch would be told of it
      fail(ErrorKind::out_of_memory, "CUDA device " + std::to_string(stream.device().index) + ": " +
                                         std::to_string(bytes) + " bytes of scratch asked");
    }
    check(status, "cudaMallocAsync");
    stream.count_from_pool(bytes);
  }
  ~Scratch() {
    if (lent_) stream_.give_back_workspace(static_cast<std::byte*>(data_));
    else cudaFreeAsync(data_, native());
  }
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

  cudaStream_t native() const { return static_cast<cudaStream_t>(stream_.native()); }

  Stream& stream_;
  void* data_;
  bool lent_;
};

}  // namespace fulgur::cuda

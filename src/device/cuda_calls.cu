#include <atomic>

#include "device/cuda_calls.h"
#include "device/launch.cuh"

namespace fulgur {

const bool kCudaBuilt = true;

namespace cuda {
namespace {

__global__ void probe() {}

}  // namespace

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  return count;
}

bool runs_kernels(DeviceId device) noexcept {
  int count = 0;
  cudaFuncAttributes attributes{};
  const bool runs = cudaGetDeviceCount(&count) == cudaSuccess && device.index < count &&
                    cudaSetDevice(device.index) == cudaSuccess &&
                    cudaFuncGetAttributes(&attributes, probe) == cudaSuccess;
  cudaGetLastError();  // what was asked here is no later call's error
  return runs;
}

bool kernels_can_follow(DeviceId device) {
  static std::atomic<int8_t> known[UINT8_MAX + 1];  // 0: not yet asked
  std::atomic<int8_t>& answer = known[device.index];
  if (answer == 0) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, probe), "cudaFuncGetAttributes");
    answer = attributes.ptxVersion >= 90 ? 1 : -1;  // code for 8.0 may run on 9.0 and later, and does not wait
  }
  return answer > 0;
}

std::string architectures() {
  std::string list;
#ifdef __CUDA_ARCH_LIST__  // 800,900
  for (const int number : {__CUDA_ARCH_LIST__})
    list += (list.empty() ? "" : ", ") + std::to_string(number / 100) + "." + std::to_string(number / 10 % 10);
#endif
  return list;
}

void* create_stream(DeviceId device) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return stream;
}

void destroy_stream(void* stream) noexcept { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }

void synchronize(void* stream) {
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize");
}

void copy(void* stream, void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)), "cudaMemcpyAsync");
}

void clear(void* stream, void* data, size_t bytes) {
  check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

void poison(DeviceId device, void* data, size_t bytes) noexcept {  // what fails here fails again in the next call
  cudaSetDevice(device.index), cudaDeviceSynchronize();
  cudaMemset(data, 0xff, bytes), cudaDeviceSynchronize();
}

std::byte* allocate(DeviceId device, size_t bytes) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // or the next launch would be told of it
    size_t free_bytes = 0, total = 0;
    check(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
    fail(ErrorKind::out_of_memory, "CUDA device " + std::to_string(device.index) + ": " + std::to_string(bytes) +
                                       " bytes asked, " + std::to_string(free_bytes) + " free");
  }
  check(status, "cudaMalloc");
  check(cudaMemset(data, 0, bytes), "cudaMemset");
  check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");  // streams of ours do not wait for the default one
  return static_cast<std::byte*>(data);
}

std::byte* allocate_pinned(size_t bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes), "cudaMallocHost");
  return static_cast<std::byte*>(data);
}

size_t free_memory(DeviceId device) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  size_t free_bytes = 0, total = 0;
  check(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
  return free_bytes;
}

void release(std::byte* data) noexcept { cudaFree(data); }
void release_pinned(std::byte* data) noexcept { cudaFreeHost(data); }

}  // namespace cuda
}  // namespace fulgur

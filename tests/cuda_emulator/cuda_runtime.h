// Stands in for CUDA's header where kernels are compiled as C++ (emulator.h): the words, types and calls that they use.
#pragma once
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

inline uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float __uint_as_float(uint32_t x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t bytes = 0;
  for (int i = 0; i < 4; ++i)
    bytes |= uint32_t((uint64_t(high) << 32 | low) >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return bytes;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }

template <class T>
T __ldcs(const T* from) {
  return *from;
}
inline void __syncthreads() { fulgur::emulator::block_barrier(); }
inline void __syncwarp() { fulgur::emulator::warp_barrier(); }
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
// What lane `from` gives; the thread's own value where there is no such lane.
template <class T>
T shuffled(T value, int from) {
  namespace emulator = fulgur::emulator;
  std::memcpy(emulator::warp_slot(emulator::thread_number() % 32), &value, sizeof value);
  emulator::warp_barrier();
  if (from >= 0 && from < 32) std::memcpy(&value, emulator::warp_slot(unsigned(from)), sizeof value);
  emulator::warp_barrier();
  return value;
}
inline int lane_number() { return int(fulgur::emulator::thread_number() % 32); }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return shuffled(value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return shuffled(value, lane_number() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int lanes) {
  return shuffled(value, lane_number() - lanes);
}
inline bool __any_sync(unsigned, bool value) {
  for (int mask = 1; mask < 32; mask *= 2) value |= shuffled(value, lane_number() ^ mask);
  return value;
}

// A bit for each lane whose predicate holds; all lanes call it.
inline uint32_t __ballot_sync(unsigned, bool predicate) {
  namespace emulator = fulgur::emulator;
  std::memcpy(emulator::warp_slot(unsigned(lane_number())), &predicate, sizeof predicate);
  emulator::warp_barrier();
  uint32_t lanes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    bool holds = false;
    std::memcpy(&holds, emulator::warp_slot(lane), sizeof holds);
    lanes |= uint32_t(holds) << lane;
  }
  emulator::warp_barrier();
  return lanes;
}
// Of all lanes' values, in all lanes.
template <class T>
T __reduce_max_sync(unsigned, T value) {
  for (int mask = 1; mask < 32; mask *= 2)
    if (const T other = shuffled(value, lane_number() ^ mask); other > value) value = other;
  return value;
}
template <class T>
T __reduce_min_sync(unsigned, T value) {
  for (int mask = 1; mask < 32; mask *= 2)
    if (const T other = shuffled(value, lane_number() ^ mask); other < value) value = other;
  return value;
}
inline int __popc(uint32_t word) { return __builtin_popcount(word); }
inline int __ffs(int word) { return __builtin_ffs(word); }

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorNoKernelImageForDevice };
enum cudaMemcpyKind { cudaMemcpyDefault };
enum { cudaStreamNonBlocking, cudaMemPoolAttrReleaseThreshold, cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
  int ptxVersion = 90;
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
struct cudaDeviceProp {
  int major = 9, minor = 0;
  char name[256] = "emulated";
  int multiProcessorCount = 132, l2CacheSize = 50 << 20;
};
using cudaStream_t = void*;
using cudaMemPool_t = void*;

// Memory begins as NaN, as what a card holds is nobody's promise.
inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*data) std::memset(*data, 0xff, bytes);
  return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* data) { return std::free(data), cudaSuccess; }
inline cudaError_t cudaMallocHost(void** data, size_t bytes) { return cudaMalloc(data, bytes); }
inline cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
// While a graph is captured, memory is the graph's: it stays.
inline cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) { return cudaMalloc(data, bytes); }
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  return fulgur::emulator::capturing() ? cudaSuccess : cudaFree(data);
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  return *free_bytes = *total = size_t(1) << 40, cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return fulgur::emulator::submit([=] { std::memcpy(to, from, bytes); }), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  return fulgur::emulator::submit([=] { std::memset(data, value, bytes); }), cudaSuccess;
}
inline cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return std::memset(data, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemset2DAsync(void* data, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  fulgur::emulator::submit([=] {
    for (size_t row = 0; row < height; ++row) std::memset(static_cast<char*>(data) + row * pitch, value, width);
  });
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, int) {
  return *stream = std::malloc(1), cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return std::free(stream), cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  if (fulgur::emulator::capturing()) fulgur::emulator::complain("a stream is waited for while it is captured");
  return cudaSuccess;
}

inline cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(nullptr); }

using cudaEvent_t = std::chrono::steady_clock::time_point*;
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return *event = new std::chrono::steady_clock::time_point, cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return *event = std::chrono::steady_clock::now(), cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  return *milliseconds = std::chrono::duration<float, std::milli>(*stop - *start).count(), cudaSuccess;
}
#define CUDART_CB
inline cudaError_t cudaLaunchHostFunc(cudaStream_t, void (*function)(void*), void* data) {
  return function(data), cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) { return *properties = {}, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }

using cudaGraph_t = std::vector<fulgur::emulator::Work>*;
using cudaGraphExec_t = cudaGraph_t;
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return fulgur::emulator::begin_capture(), cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  return *graph = new std::vector<fulgur::emulator::Work>(fulgur::emulator::end_capture()), cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, int) {
  return *executable = new std::vector<fulgur::emulator::Work>(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const fulgur::emulator::Work& work : *graph) work();
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, int, void*) { return cudaSuccess; }
// The card that is emulated: FULGUR_EMULATED_GPU is its compute capability, 9 unless it is given; 8.6 for 8 with blocks
// of less shared memory.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const char* const given = std::getenv("FULGUR_EMULATED_GPU");
  const double capability = given ? std::atof(given) : 9;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrComputeCapabilityMajor: *value = int(capability); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = (capability == 9 ? 227 : capability == 8 ? 163 : 99) << 10;
      break;
  }
  return cudaSuccess;
}
// A card below 8.0 has no kernels here.
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  return major < 8 ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, int, int bytes) {
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  return bytes > most ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "success" : "out of memory";
}

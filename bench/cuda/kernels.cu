#include <vector>

#include "bench/cuda/kernels.h"
#include "device/buffer.h"
#include "device/launch.cuh"
#include "device/transfer.h"

namespace fulgur::bench {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kBlocks = 132 * 16;  // each thread goes on to elements a whole grid further

__device__ int64_t first_index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }
__device__ int64_t grid_threads() { return int64_t(gridDim.x) * kThreads; }

// A well mixed function of 64 bits (the finaliser of SplitMix64).
__device__ uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

template <class T>
__global__ void fill(T* to, int64_t count, uint64_t seed, float deviation, float mean) {
  for (int64_t i = first_index(); i < count; i += grid_threads()) {
    const uint64_t word = mixed(mixed(seed) + uint64_t(i) * 0x9e3779b97f4a7c15);
    const float u = (float(uint32_t(word)) + 0.5f) * 0x1p-32f, angle = float(uint32_t(word >> 32)) * 0x1p-31f;
    to[i] = T(mean + deviation * sqrtf(-2 * logf(fminf(u, 0.99999994f))) * cospif(angle));
  }
}

__global__ void fill_ones(unsigned char* to, int64_t bytes) {
  for (int64_t i = first_index(); i < bytes; i += grid_threads()) to[i] = 0xff;
}

// A sum of mixed words, which no order of additions changes.
__global__ void digest(const unsigned char* from, int64_t bytes, int element_bytes, Digest* result) {
  uint64_t sum = 0, nans = 0;
  for (int64_t i = first_index(); i < bytes / 4; i += grid_threads()) {
    const uint32_t word = reinterpret_cast<const uint32_t*>(from)[i];
    sum += mixed(word + (uint64_t(i) << 32));
    if (element_bytes == 4) nans += (word & 0x7fffffff) > 0x7f800000;
    if (element_bytes == 2) nans += ((word & 0x7fff) > 0x7f80) + ((word >> 16 & 0x7fff) > 0x7f80);
  }
  atomicAdd(reinterpret_cast<unsigned long long*>(&result->bytes), static_cast<unsigned long long>(sum));
  if (nans) atomicAdd(reinterpret_cast<unsigned long long*>(&result->nans), static_cast<unsigned long long>(nans));
}

constexpr int kCopied = 4;  // times 16 bytes of a thread, all asked for before the first is written

__global__ void __launch_bounds__(kThreads) copy_words(uint4* to, const uint4* from, int64_t words) {
  const int64_t first = int64_t(blockIdx.x) * (kThreads * kCopied) + threadIdx.x;
  uint4 word[kCopied];
#pragma unroll
  for (int i = 0; i < kCopied; ++i)
    if (first + i * kThreads < words) word[i] = __ldcs(from + first + i * kThreads);
#pragma unroll
  for (int i = 0; i < kCopied; ++i)
    if (first + i * kThreads < words) __stcs(to + first + i * kThreads, word[i]);
}

template <class T>
__global__ void gather(float* to, View<T, kMaxRank> from, int64_t count) {
  for (int64_t i = first_index(); i < count; i += grid_threads()) {
    int64_t rest = i, offset = 0;
    for (int axis = kMaxRank - 1; axis >= 0; --axis)
      offset += rest % from.shape[axis] * from.stride[axis], rest /= from.shape[axis];
    to[i] = float(from.data[offset]);
  }
}

// The same elements as a tensor of rank kMaxRank.
template <class T>
View<T, kMaxRank> widest_view(const Tensor& t) {
  View<T, kMaxRank> view{reinterpret_cast<T*>(t.data), {1, 1, 1, 1, 1}, {}};
  for (int axis = 0; axis < t.rank; ++axis) {
    view.shape[kMaxRank - t.rank + axis] = t.shape[size_t(axis)];
    view.stride[kMaxRank - t.rank + axis] = t.stride[size_t(axis)];
  }
  return view;
}

cuda::Grid whole_grid() { return {dim3(kBlocks), dim3(kThreads)}; }

}  // namespace

void fill_normal(Stream& stream, Tensor tensor, uint64_t seed, double deviation, double mean) {
  const auto run = [&]<class T>() {
    cuda::launch(stream, "fill_normal", whole_grid(), fill<T>, tensor.elements<T>(), tensor.count(), seed,
                 float(deviation), float(mean));
  };
  if (tensor.dtype == DType::f32) run.template operator()<float>();
  else run.template operator()<bf16>();
}

void poison(Stream& stream, Tensor tensor) {
  expect(tensor.dense(), "a poisoned tensor is dense");
  cuda::launch(stream, "poison", whole_grid(), fill_ones, reinterpret_cast<unsigned char*>(tensor.data),
               tensor.bytes());
}

Digest digest_of(Stream& stream, Tensor tensor) {
  expect(tensor.dense() && tensor.bytes() % 4 == 0, "a digest is of whole words");
  const Buffer memory(sizeof(Digest), Purpose::workspace, stream.device());
  const Tensor result = memory.tensor(DType::i64, {2});
  clear(stream, result);
  const bool floating = tensor.dtype == DType::f32 || tensor.dtype == DType::bf16;
  cuda::launch(stream, "digest", whole_grid(), digest, reinterpret_cast<const unsigned char*>(tensor.data),
               tensor.bytes(), floating ? int(byte_size(tensor.dtype)) : 0, reinterpret_cast<Digest*>(result.data));
  const std::vector<int64_t> words = download<int64_t>(stream, result);
  return {uint64_t(words[0]), uint64_t(words[1])};
}

void copy_by_kernel(Stream& stream, std::byte* to, const std::byte* from, int64_t bytes) {
  const int64_t words = bytes / 16, block = kThreads * kCopied;
  cuda::launch(stream, "copy", {dim3(unsigned((words + block - 1) / block)), dim3(kThreads)}, copy_words,
               reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), words);
}

std::vector<float> elements_of(Stream& stream, Tensor tensor) {
  const int64_t count = tensor.count();
  const Buffer memory(size_t(count) * sizeof(float), Purpose::workspace, stream.device());
  const Tensor dense = memory.tensor(DType::f32, {count});
  const auto run = [&]<class T>() {
    cuda::launch(stream, "elements_of", whole_grid(), gather<T>, dense.elements<float>(), widest_view<T>(tensor),
                 count);
  };
  if (tensor.dtype == DType::f32) run.template operator()<float>();
  else run.template operator()<bf16>();
  return download<float>(stream, dense);
}

}  // namespace fulgur::bench

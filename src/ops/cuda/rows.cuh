// What the row-wise CUDA twins share: rows, chunks of a row in 16-byte accesses, grids of any size, sums over a row.
//
// Which thread takes which element, and so the order of every sum, depends on the width of a row alone: not on the
// element type, the alignment, the rows around or the card. These files are compiled without contraction
// (CMakeLists.txt), as the CPU twins are.
#pragma once
#include <cstdint>

#include "device/launch.cuh"
#include "ops/cuda/matrix_unit.cuh"
#include "ops/dtype_switch.h"

namespace fulgur::cuda {

inline constexpr int kThreads = 256;
inline constexpr unsigned kAllLanes = 0xffffffff;

template <class T>
struct Rows {
  T* data;
  int64_t count, width, stride;
  __device__ T* operator[](int64_t row) const { return data + row * stride; }
};

template <class T>
Rows<T> rows_of(const Tensor& t) {
  const View<std::remove_const_t<T>, 2> view = t.view<std::remove_const_t<T>, 2>();
  expect(view.stride[1] == 1 || view.shape[1] <= 1, "the columns of a row lie end to end");
  return {view.data, view.shape[0], view.shape[1], view.stride[0]};
}

// Elements that a thread takes at once: 16 bytes. Sums along a row take eight of either type, so that both add alike.
template <class T>
inline constexpr int kAtOnce = 16 / int(sizeof(T));
inline constexpr int kChunk = 8;

// Whether every row of each tensor begins at a multiple of 16 bytes and is whole chunks: kAligned of the kernels. Their
// loads have no way around them then, so many are under way before the first is needed.
template <class... Tensors>
bool aligned(const Tensors&... tensors) {
  const auto one = [](const Tensor& t) {
    bool yes = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.dim(-1) % kChunk == 0;
    for (int axis = 0; axis + 1 < t.rank; ++axis)
      yes &= t.dim(axis) == 1 || t.stride[size_t(axis)] * byte_size(t.dtype) % 16 == 0;
    return yes;
  };
  return (one(tensors) && ...);
}

// body.operator()<T>(), for the element types that CUDA twins have.
template <class Body>
void with_cuda_type(DType dtype, Body&& body) {
  if (dtype == DType::f64) fail(ErrorKind::unsupported, "CUDA computes in f32 and bf16, not in f64: use --device cpu");
  with_element_type<float, bf16>(dtype, body);
}

// body.operator()<flag>()
template <class Body>
void with_flag(bool flag, Body&& body) {
  if (flag) body.template operator()<true>();
  else body.template operator()<false>();
}

FULGUR_HOST_DEVICE constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One axis of a grid ends at 2^31 - 1: beyond, blocks go on in the second. A kernel asks block_index() and leaves when
// that is not below the number of blocks it was started for.
inline Grid grid_of(int64_t blocks, dim3 threads) {
  constexpr int64_t kAxis = int64_t(1) << 30;
  return {dim3(unsigned(blocks < kAxis ? blocks : kAxis), unsigned(divide_up(blocks, kAxis))), threads};
}
template <class... Parameters, class... Arguments>
void launch_blocks(Stream& stream, const char* name, int64_t blocks, dim3 threads, void (*kernel)(Parameters...),
                   Arguments... arguments) {
  if (blocks > 0) launch(stream, name, grid_of(blocks, threads), kernel, arguments...);
}
// Of a kernel that follows the one before (device/launch.cuh).
template <class... Parameters, class... Arguments>
void launch_following(Stream& stream, const char* name, int64_t blocks, dim3 threads, void (*kernel)(Parameters...),
                      Arguments... arguments) {
  Grid grid = grid_of(blocks, threads);
  grid.follows = true;
  if (blocks > 0) launch(stream, name, grid, kernel, arguments...);
}
__device__ inline int64_t block_index() { return int64_t(blockIdx.y) * gridDim.x + blockIdx.x; }

// The elements x[0] to x[N - 1], of which `left` are there; zeros for the others. Where kAligned, all are or none.
template <bool kAligned, int N>
__device__ inline void load(float (&v)[N], const float* x, int64_t left) {
  if constexpr (kAligned) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      float4 four = make_float4(0, 0, 0, 0);
      if (left > 0) four = *reinterpret_cast<const float4*>(x + i);
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = i < left ? x[i] : 0;
  }
}
template <bool kAligned, int N>
__device__ inline void load(float (&v)[N], const bf16* x, int64_t left) {
  static_assert(N == 8);
  if constexpr (kAligned) {
    uint4 raw = make_uint4(0, 0, 0, 0);
    if (left > 0) raw = *reinterpret_cast<const uint4*>(x);
    const unsigned pairs[] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      v[2 * i] = __uint_as_float(pairs[i] << 16), v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = i < left ? float(x[i]) : 0;
  }
}
template <bool kAligned, int N>
__device__ inline void store(float* y, const float (&v)[N], int64_t left) {
  if constexpr (kAligned) {
#pragma unroll
    for (int i = 0; i < N; i += 4)
      if (left > 0) *reinterpret_cast<float4*>(y + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < left) y[i] = v[i];
  }
}
template <bool kAligned, int N>
__device__ inline void store(bf16* y, const float (&v)[N], int64_t left) {
  static_assert(N == 8);
  if constexpr (kAligned) {
    if (left > 0)
      *reinterpret_cast<uint4*>(y) =
          make_uint4(bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7]));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < left) y[i].bits = uint16_t(bf16_pair(v[i], 0));
  }
}

// kChunk elements as they lie in memory: half the registers of bf16's numbers, for what is fetched ahead of its use.
template <class T>
struct Chunk {
  uint4 words[sizeof(T) / 2];
};
template <bool kAligned, class T>
__device__ inline Chunk<T> fetch(const T* x, int64_t left) {
  Chunk<T> chunk{};
  if constexpr (kAligned) {
    if (left > 0)
#pragma unroll
      for (int i = 0; i < int(sizeof(T) / 2); ++i) chunk.words[i] = reinterpret_cast<const uint4*>(x)[i];
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < left) reinterpret_cast<T*>(chunk.words)[i] = x[i];
  }
  return chunk;
}
template <class T>
__device__ inline void unpack(float (&v)[kChunk], const Chunk<T>& chunk) {
#pragma unroll
  for (int i = 0; i < int(sizeof(T) / 2); ++i) {
    const unsigned words[] = {chunk.words[i].x, chunk.words[i].y, chunk.words[i].z, chunk.words[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (sizeof(T) == 4) v[4 * i + j] = __uint_as_float(words[j]);
      else v[2 * j] = __uint_as_float(words[j] << 16), v[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000);
    }
  }
}

template <bool kAligned, class T>
__device__ inline void put(T* y, const Chunk<T>& chunk, int64_t left) {
  if constexpr (kAligned) {
    if (left > 0)
#pragma unroll
      for (int i = 0; i < int(sizeof(T) / 2); ++i) reinterpret_cast<uint4*>(y)[i] = chunk.words[i];
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < left) y[i] = reinterpret_cast<const T*>(chunk.words)[i];
  }
}
template <class T>
__device__ inline Chunk<T> filled(float v) {
  const unsigned word = sizeof(T) == 4 ? __float_as_uint(v) : bf16_pair(v, v);
  Chunk<T> chunk;
#pragma unroll
  for (int i = 0; i < int(sizeof(T) / 2); ++i) chunk.words[i] = make_uint4(word, word, word, word);
  return chunk;
}

// Blocks whose x are the threads of one row and whose y are rows, for work on rows that needs no sum along them.
struct RowBlocks {
  dim3 threads;
  int64_t blocks;
  RowBlocks(int64_t rows, int64_t chunks) {
    unsigned lanes = 32;
    while (lanes < kThreads && int64_t(lanes) < chunks) lanes *= 2;
    threads = dim3(lanes, kThreads / lanes), blocks = divide_up(rows, threads.y);
  }
};
__device__ inline int64_t row_of_thread() { return block_index() * blockDim.y + threadIdx.y; }

// Teams: the threads that add along a row. A warp up to kWarpWidth columns, eight rows a block; else a whole block.
inline constexpr int64_t kWarpWidth = 1024;
template <bool kWarp>
struct Team {
  static constexpr int kSize = kWarp ? 32 : kThreads;
  static constexpr int kRows = kThreads / kSize;  // of a block
  __device__ static int64_t row() { return block_index() * kRows + threadIdx.x / kSize; }
  __device__ static int thread() { return int(threadIdx.x % kSize); }
};

// The sum over the lanes of a warp, in all of them with the same bits.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
  return v;
}

// The sum over a block of whole warps, warps ascending, in all threads. `shared` has a place for each warp; it may be
// used again after another barrier.
__device__ inline float block_sum(float v, float* shared) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp];
  return sum;
}

// `turn` counts the sums of this team from 0: they take two sets of places by turns, so one barrier is enough for each.
template <bool kWarp>
__device__ inline float team_sum(float v, int64_t turn = 0) {
  if constexpr (kWarp) {
    return warp_sum(v);
  } else {
    __shared__ float places[2][kThreads / 32];
    return block_sum(v, places[turn % 2]);
  }
}

}  // namespace fulgur::cuda

// What softmax attention's kernels for Hopper share: bf16, heads of 128. Warpgroups multiply tiles of 64 rows; the
// warps of one more warpgroup copy tiles into shared memory, each waiting for its own copies.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/attention_operands.cuh"
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda::softmax_hopper {

inline constexpr int kWidth = 128;          // of a head
inline constexpr int kRows = 64;            // of a tile, and of a warpgroup's product
inline constexpr int kPieces = kWidth / 8;  // of a row, 16 bytes each
inline constexpr int kWarpgroup = 128;      // threads
inline constexpr int kMultipliers = 2;      // warpgroups
inline constexpr int kThreads = (kMultipliers + 1) * kWarpgroup;
inline constexpr float kLog2E = 1.44269504F, kLn2 = 0.693147181F;

// 64 rows of a head: two tiles of 64 columns.
inline constexpr int kRowsBytes = 2 * kTileBytes;

// The thread's warpgroup, as a number that a whole warp knows to share.
__device__ inline int warpgroup_number() { return __shfl_sync(0xffffffff, int(threadIdx.x) / kWarpgroup, 0); }

// The block's shared memory as a struct of tiles, which begin at multiples of 1,024 bytes; 1,024 bytes are for that.
template <class Layout>
__device__ inline Layout& shared_layout() {
  unsigned char* const memory = dynamic_shared();
  return *reinterpret_cast<Layout*>(memory + (-shared_address(memory) & 1023));
}

// Sixteen steps of a product further, in bytes: along the rows of two tiles that lie `apart` bytes from each other, or
// down the rows of a tile.
__device__ inline int along(int i, int apart) { return i / 4 * apart + i % 4 * 32; }
__device__ inline int down(int i) { return i * 16 * kTileRowBytes; }

// Begins to copy 64 rows of 128 columns, of which the first `present` are there, by `kLanes` threads; the stride counts
// elements. The second 64 columns go to `apart` bytes behind the first.
template <int kLanes>
__device__ __forceinline__ void copy_rows(uint8_t* to, int apart, int lane, int present, const bf16* from,
                                          int64_t stride) {
  const int piece = lane % kPieces;
  uint8_t* const tile = to + piece / 8 * apart;
  const bf16* source = from + lane / kPieces * stride + piece * 8;
#pragma unroll 4
  for (int row = lane / kPieces; row < kRows; row += kLanes / kPieces, source += kLanes / kPieces * stride)
    copy_async(tile + tile_offset(row, piece % 8 * 8), source, row < present);
}

// Copies of the calling thread become visible to the tensor cores of whoever waits at the barrier.
__device__ inline void hand_over(uint32_t full) {
  wait_for_copies();
  fence_for_products();
  barrier_arrive(full);
}
// A warp has read what it waited for.
__device__ inline void give_back(uint32_t empty) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

// Sums of 64 rows by 128 columns to global memory in pieces of 16 bytes, through 64 rows of the warpgroup's own in
// shared memory that nobody reads any more. at(row): where a row begins, null where it is absent; factor(half): of the
// thread's two rows.
template <class At>
__device__ __forceinline__ void store_rows(uint8_t* space, const float (&sums)[64], const float (&factor)[2],
                                           const At& at) {
  const int thread = int(threadIdx.x) % kWarpgroup, lane = thread % 32, row0 = thread / 32 * 16;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int half = i % 2, row = row0 + 8 * half + lane / 4, column = i / 2 * 8 + lane % 4 * 2;
    // A sum of zeros may be -0, in one way of cutting a sequence and not in another.
    *reinterpret_cast<uint32_t*>(space + column / 64 * kTileBytes + tile_offset(row, column % 64)) = bf16_pair(
        __fadd_rn(__fmul_rn(sums[2 * i], factor[half]), 0), __fadd_rn(__fmul_rn(sums[2 * i + 1], factor[half]), 0));
  }
  __syncwarp();
  const int piece = lane % kPieces;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int row = row0 + 2 * i + lane / kPieces;
    if (bf16* const to = at(row))
      *reinterpret_cast<uint4*>(to + piece * 8) =
          *reinterpret_cast<const uint4*>(space + piece / 8 * kTileBytes + tile_offset(row, piece % 8 * 8));
  }
}

}  // namespace fulgur::cuda::softmax_hopper

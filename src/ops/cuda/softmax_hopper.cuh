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
inline constexpr int kChunk = kMultipliers * kRows;
inline constexpr int kKeys = 128;  // of a tile that a chunk streams by
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

// Begins to copy kCount rows of 128 columns, of which the first `present` are there, by kLanes threads; the stride
// counts elements. The second 64 columns go to `apart` bytes behind the first.
template <int kCount, int kLanes>
__device__ __forceinline__ void copy_rows(uint8_t* to, int apart, int lane, int present, const bf16* from,
                                          int64_t stride) {
  constexpr int kAtOnce = kLanes / kPieces, kSwizzles = 8 / kAtOnce;
  const int piece = lane % kPieces, row = lane / kPieces;
  const bf16* source = from + row * stride + piece * 8;
  int offsets[kSwizzles];  // of the first eight rows
#pragma unroll
  for (int i = 0; i < kSwizzles; ++i) offsets[i] = piece / 8 * apart + tile_offset(row + i * kAtOnce, piece % 8 * 8);
#pragma unroll 4
  for (int i = 0; i < kCount / kAtOnce; ++i, source += kAtOnce * stride)
    copy_async(to + offsets[i % kSwizzles] + i / kSwizzles * 8 * kTileRowBytes, source, row + i * kAtOnce < present);
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

// The places of tiles that stream through shared memory: two warps copy a tile, the multipliers read it.
template <int kStagesOf>
struct Ring {
  static constexpr int kStages = kStagesOf;
  uint64_t full[kStages], empty[kStages];

  __device__ void init() {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared_address(&full[stage]), 2 * 32);
      barrier_init(shared_address(&empty[stage]), kMultipliers * kWarpgroup / 32);
    }
  }
  __device__ void wait_full(int tile) {
    barrier_wait(shared_address(&full[tile % kStages]), uint32_t(tile / kStages % 2));
  }
  __device__ void wait_empty(int tile) {
    if (tile >= kStages) barrier_wait(shared_address(&empty[tile % kStages]), uint32_t((tile / kStages - 1) % 2));
  }
  __device__ void fill(int tile) { hand_over(shared_address(&full[tile % kStages])); }
  __device__ void release(int tile) { give_back(shared_address(&empty[tile % kStages])); }
};

// 128 rows of a sequence: its rows under all heads of a KV head stand on each other, row by row, and are cut into
// chunks of 128. Late chunks see the most keys, and come first.
struct Chunk {
  int64_t sequence, kv_head, begin;  // the sequence's first row in the batch
  int position;                      // of that row
  int first, stacked;                // of the stacked rows: the chunk's first; how many a sequence has
  int group;                         // heads of a KV head

  // op: of row_begin, positions, sequences, kv_heads, group, and how many chunks the longest sequence has.
  template <class Operands>
  __device__ Chunk(const Operands& op, int64_t item)
      : sequence(item / op.kv_heads % op.sequences),
        kv_head(item % op.kv_heads),
        begin(op.row_begin(sequence)),
        position(0),
        first(int(op.chunks - 1 - item / op.kv_heads / op.sequences) * kChunk),
        stacked(int(op.row_begin(sequence + 1) - begin) * op.group),
        group(op.group) {
    if (!empty()) position = int(op.positions(begin));
  }
  __device__ bool empty() const { return first >= stacked; }
  // Of the chunk's row: whether it exists, its row in the batch, its head. An absent row is like the last.
  __device__ bool has(int row) const { return first + row < stacked; }
  __device__ int clamped(int row) const { return min(first + row, stacked - 1); }
  __device__ int64_t batch_row(int row) const { return begin + clamped(row) / group; }
  __device__ int64_t head(int row) const { return kv_head * group + clamped(row) % group; }
  __device__ int seen(int row) const { return position + clamped(row) / group + 1; }  // keys
  __device__ int tiles() const { return (seen(kChunk - 1) + kKeys - 1) / kKeys; }
};

// Begins to copy a warpgroup's 64 rows of a chunk.
__device__ __forceinline__ void copy_chunk(uint8_t* to, const View<const bf16, 3>& from, const Chunk& chunk,
                                           int warpgroup) {
  const int thread = int(threadIdx.x) % kWarpgroup, piece = thread % kPieces;
#pragma unroll 2
  for (int row = thread / kPieces; row < kRows; row += kWarpgroup / kPieces) {
    const int in_chunk = warpgroup * kRows + row;
    copy_async(to + piece / 8 * kTileBytes + tile_offset(row, piece % 8 * 8),
               &from(chunk.batch_row(in_chunk), chunk.head(in_chunk), piece * 8), true);
  }
}

// By a warp: half of each tile of 128 keys, or of values, that a chunk sees. block(index): 64 of these rows; `to`:
// places of 128 rows, columns 0 on, then columns 64 on.
template <int kStages, class Block>
__device__ __forceinline__ void stream_keys(Ring<kStages>& ring, uint8_t (&to)[kStages][2 * kRowsBytes],
                                            const Chunk& chunk, const Block& block) {
  const int half = int(threadIdx.x) / 64 % 2, lane = int(threadIdx.x) % 32, known = chunk.seen(kChunk - 1);
  for (int tile = 0, tiles = chunk.tiles(); tile < tiles; ++tile) {
    const int index = 2 * tile + half, left = known - index * kRows;
    const HeadRows<const bf16> rows = left > 0 ? block(index) : HeadRows<const bf16>{};
    ring.wait_empty(tile);
    copy_rows<kRows, 32>(to[tile % kStages] + half * kTileBytes, kRowsBytes, lane, left, rows.data, rows.stride);
    ring.fill(tile);
  }
}

// A thread block's work on a chunk: a warpgroup of copiers, and warpgroups that each run a Rows.
template <class Rows, class Shared, class Operands>
__device__ __forceinline__ void work_on_chunk(const Operands& op) {
  Shared& shared = shared_layout<Shared>();
  const Chunk chunk(op, blockIdx.x);
  if (chunk.empty()) return;
  if (threadIdx.x == 0) shared.keys.init(), shared.values.init();
  barriers_are_ready();
  __syncthreads();
  const int warpgroup = warpgroup_number();
  if (warpgroup == kMultipliers) {
    registers_down<40>();
    stream_keys(op, chunk, shared);
  } else {
    registers_up<232>();
    Rows(op, chunk, shared, warpgroup).run();
  }
}

// As the sums of a product lie in a warpgroup, so do the rows of the next.
template <int kSums>
__device__ __forceinline__ void pack(const float (&sums)[kSums], uint32_t (&weights)[kSums / 8][4]) {
#pragma unroll
  for (int i = 0; i < kSums / 2; ++i) weights[i / 4][i % 4] = bf16_pair(sums[2 * i], sums[2 * i + 1]);
}

// Sums of 64 rows by 128 columns to global memory in pieces of 16 bytes, through 64 rows of the warpgroup's own in
// shared memory, which its products have read. at(row): where a row begins, null where it is absent; factor(half): of
// the thread's two rows; barrier: one of the warpgroup's own.
template <class At>
__device__ __forceinline__ void store_rows(uint8_t* space, const float (&sums)[64], const float (&factor)[2],
                                           int barrier, const At& at) {
  const int thread = int(threadIdx.x) % kWarpgroup, lane = thread % 32, row0 = thread / 32 * 16;
  named_barrier(barrier, kWarpgroup);
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

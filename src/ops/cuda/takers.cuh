// For the gradient of a gather: which places i took row r. Integer atomics give every i a place among those of its row,
// in whatever order they come; who adds the rows puts a list in order first, so results are the same in every run.
#pragma once
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {

inline constexpr int kListed = 32;  // takers of a row that are listed: a lane of a warp each

struct TakerLists {
  const int32_t* indices;            // [taken]: of the gather; those outside [0, rows) are nobody's takers
  int32_t* count;                    // [rows]: how many takers a row has
  int32_t* listed;                   // [rows, kListed]: where there are no more, these are they
  int32_t *busy, *longer;            // [taken]: rows that have takers, and rows with more than are listed; any order
  int32_t *busy_rows, *longer_rows;  // how many those are
  int32_t* counters;                 // two more that begin at zero, for what follows (long_lists.cuh)
  int64_t taken, rows;
};

// One addition a warp: the next place for each lane that wants one, of *total.
__device__ inline int32_t next_place(int32_t* total, bool wanted) {
  const int lane = int(threadIdx.x % 32);
  const uint32_t lanes = __ballot_sync(kAllLanes, wanted);
  int32_t first = 0;
  if (lane == 0 && lanes != 0) first = atomicAdd(total, __popc(lanes));
  return __shfl_sync(kAllLanes, first, 0) + __popc(lanes & ((1u << lane) - 1));
}

static __global__ void __launch_bounds__(kThreads) list_takers(TakerLists t) {
  const int64_t i = block_index() * kThreads + threadIdx.x;
  const int32_t row = i < t.taken ? t.indices[i] : -1;
  const bool inside = row >= 0 && row < t.rows;
  const int32_t arrival = inside ? atomicAdd(&t.count[row], 1) : -1;
  if (inside && arrival < kListed) t.listed[int64_t(row) * kListed + arrival] = int32_t(i);
  if (!t.busy) return;
  const int32_t busy = next_place(t.busy_rows, arrival == 0);
  if (arrival == 0) t.busy[busy] = row;
  if (arrival == kListed) t.longer[atomicAdd(t.longer_rows, 1)] = row;
}

// named: whether busy and longer rows are wanted too.
class Takers {
 public:
  Takers(Stream& stream, const char* name, const int32_t* indices, int64_t taken, int64_t rows, bool named)
      : scratch_(stream, size_t(rows * (kListed + 1) + 2 * taken + 4) * sizeof(int32_t)) {
    expect(taken <= INT32_MAX && rows <= INT32_MAX, "rows that are taken are counted by i32");
    int32_t* const at = scratch_.as<int32_t>();
    lists = {.indices = indices,
             .count = at + 4,
             .listed = at + 4 + rows,
             .busy = named ? at + 4 + rows * (kListed + 1) : nullptr,
             .longer = named ? at + 4 + rows * (kListed + 1) + taken : nullptr,
             .busy_rows = at,
             .longer_rows = at + 1,
             .counters = at + 2,
             .taken = taken,
             .rows = rows};
    check(cudaMemsetAsync(at, 0, size_t(rows + 4) * sizeof(int32_t), static_cast<cudaStream_t>(stream.native())), name);
    launch_blocks(stream, name, divide_up(taken, kThreads), dim3(kThreads), list_takers, lists);
  }
  TakerLists lists;

 private:
  Scratch scratch_;
};

// The listed takers of a row, ascending, into the warp's own shared memory. All lanes call it.
__device__ inline void order_takers(int32_t (&ordered)[kListed], const int32_t* listed, int32_t count) {
  const int lane = int(threadIdx.x % 32);
  const int32_t mine = lane < count ? listed[lane] : 0;
  int32_t before = 0;
  for (int32_t j = 0; j < count; ++j) before += __shfl_sync(kAllLanes, mine, j) < mine;
  if (lane < count) ordered[before] = mine;
  __syncwarp();
}

// sums[k] += the chunk at column c + k * step of the rows of x in a list, in its order. Some rows are fetched before
// the first is added, and the places of the next ones before that.
template <bool kAligned, int kAhead, class T, int kChunks>
__device__ void add_listed(float (&sums)[kChunks][kChunk], Rows<const T> x, const int32_t* list, int32_t count,
                           int64_t c, int64_t step) {
  int32_t row[kAhead];
#pragma unroll
  for (int a = 0; a < kAhead; ++a) row[a] = a < count ? list[a] : 0;
  for (int32_t j = 0; j < count; j += kAhead) {
    Chunk<T> chunks[kAhead][kChunks];
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      if (j + a < count)
#pragma unroll
        for (int k = 0; k < kChunks; ++k)
          chunks[a][k] = fetch<kAligned>(x[row[a]] + c + k * step, x.width - c - k * step);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) row[a] = j + kAhead + a < count ? list[j + kAhead + a] : 0;
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      if (j + a < count)
#pragma unroll
        for (int k = 0; k < kChunks; ++k) {
          float v[kChunk];
          unpack(v, chunks[a][k]);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) sums[k][i] += v[i];
        }
  }
}

}  // namespace fulgur::cuda

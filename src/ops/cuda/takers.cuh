// For the gradient of a gather: which places i took row r, ascending. Built without a sort: integer atomics give every
// i a place among those of its row in whatever order they come, and then each counts how many of them are before it.
// The lists are the same in every run; where a row's list lies is not, and nothing reads that. A row taken m times
// costs m * m comparisons, spread over m threads.
#pragma once
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {

struct TakerLists {
  const int32_t* indices;     // [taken]: of the gather; those outside [0, rows) are in no list
  int32_t *count, *begin;     // [rows]: the list of row r is places[begin[r]] to places[begin[r] + count[r]]
  int32_t *arrival, *placed;  // [taken]: scratch
  int32_t* places;            // [taken]
  int32_t* total;             // one: the length of all lists
  int64_t taken, rows;
};

static __global__ void __launch_bounds__(kThreads) count_takers(TakerLists t) {
  const int64_t i = block_index() * kThreads + threadIdx.x;
  if (i >= t.taken) return;
  const int32_t row = t.indices[i];
  t.arrival[i] = row >= 0 && row < t.rows ? atomicAdd(&t.count[row], 1) : -1;
}

static __global__ void __launch_bounds__(kThreads) begin_lists(TakerLists t) {
  const int64_t row = block_index() * kThreads + threadIdx.x;
  const int lane = int(threadIdx.x % 32);
  const int32_t count = row < t.rows ? t.count[row] : 0;
  int32_t upto = count;  // of the warp's rows, up to this one
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t before = __shfl_up_sync(kAllLanes, upto, step);
    if (lane >= step) upto += before;
  }
  int32_t base = lane == 31 && upto > 0 ? atomicAdd(t.total, upto) : 0;
  base = __shfl_sync(kAllLanes, base, 31);
  if (row < t.rows) t.begin[row] = base + upto - count;
}

static __global__ void __launch_bounds__(kThreads) place_takers(TakerLists t) {
  const int64_t i = block_index() * kThreads + threadIdx.x;
  if (i < t.taken && t.arrival[i] >= 0) t.placed[t.begin[t.indices[i]] + t.arrival[i]] = int32_t(i);
}

static __global__ void __launch_bounds__(kThreads) order_takers(TakerLists t) {
  const int64_t i = block_index() * kThreads + threadIdx.x;
  if (i >= t.taken || t.arrival[i] < 0) return;
  const int32_t row = t.indices[i], count = t.count[row];
  const int32_t* const list = t.placed + t.begin[row];
  int32_t before = 0;
#pragma unroll 8
  for (int32_t j = 0; j < count; ++j) before += list[j] < int32_t(i);
  t.places[t.begin[row] + before] = int32_t(i);
}

class Takers {
 public:
  Takers(Stream& stream, const char* name, const int32_t* indices, int64_t taken, int64_t rows)
      : scratch_(stream, size_t(2 * rows + 3 * taken + 1) * sizeof(int32_t)) {
    expect(taken <= INT32_MAX && rows <= INT32_MAX, "rows that are taken are counted by i32");
    int32_t* const at = scratch_.as<int32_t>();
    lists = {.indices = indices,
             .count = at + 1,
             .begin = at + 1 + rows,
             .arrival = at + 1 + 2 * rows,
             .placed = at + 1 + 2 * rows + taken,
             .places = at + 1 + 2 * rows + 2 * taken,
             .total = at,
             .taken = taken,
             .rows = rows};
    const cudaStream_t native = static_cast<cudaStream_t>(stream.native());
    check(cudaMemsetAsync(at, 0, size_t(rows + 1) * sizeof(int32_t), native), name);
    const int64_t of_taken = divide_up(taken, kThreads);
    launch_blocks(stream, name, of_taken, dim3(kThreads), count_takers, lists);
    launch_blocks(stream, name, divide_up(rows, kThreads), dim3(kThreads), begin_lists, lists);
    launch_blocks(stream, name, of_taken, dim3(kThreads), place_takers, lists);
    launch_blocks(stream, name, of_taken, dim3(kThreads), order_takers, lists);
  }
  TakerLists lists;

 private:
  Scratch scratch_;
};

// sum += the chunk at column c of the rows of x in a list, in its order. Some rows are fetched before the first is
// added, and the places of the next ones before that.
template <bool kAligned, class T, int N>
__device__ void add_listed(float (&sum)[N], Rows<const T> x, const int32_t* list, int32_t count, int64_t c) {
  constexpr int kAhead = 4;
  const int64_t left = x.width - c;
  int32_t row[kAhead];
#pragma unroll
  for (int a = 0; a < kAhead; ++a) row[a] = a < count ? list[a] : 0;
  for (int64_t j = 0; j < count; j += kAhead) {
    float v[kAhead][N];
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      if (j + a < count) load<kAligned>(v[a], x[row[a]] + c, left);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) row[a] = j + kAhead + a < count ? list[j + kAhead + a] : 0;
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      if (j + a < count) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += v[a][i];
      }
  }
}

}  // namespace fulgur::cuda

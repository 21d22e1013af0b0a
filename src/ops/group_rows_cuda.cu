// A stable sort of the choices by expert without atomics: a block for each expert and window counts its choices, one
// block turns counts into places, and the first blocks then go through their choices once more, in order. A choice that
// is no expert's gets a place outside, from which combine_experts makes NaN.
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/group_rows.h"

namespace fulgur::cuda {
namespace {

constexpr int kSearchers = 1024, kScanned = 16;  // threads; choices that one looks at in one go
constexpr int kWarps = kSearchers / 32;

struct Choices {
  Rows<const int32_t> ids;
  int64_t experts, window, windows;  // window: its rows
};

// Calls each(rank, i) for the choices i of a window that are this expert's, with how many there are before; returns how
// many there are. A thread takes kScanned choices in a row, and what it finds stands after what the threads before
// found.
template <class Each>
__device__ int32_t walk_choices(const Choices& c, int32_t expert, int64_t first_row, const Each& each) {
  __shared__ int32_t found_by[2][kWarps];
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const uint32_t width = uint32_t(c.ids.width), count = uint32_t(c.window) * width;
  int32_t before = 0;
  int turn = 0;
  for (uint32_t first = 0; first < count; first += kSearchers * kScanned, turn = 1 - turn) {
    const uint32_t begin = first + threadIdx.x * kScanned;
    uint32_t mine = 0;  // a bit a choice
#pragma unroll
    for (uint32_t i = 0; i < kScanned; ++i)
      if (begin + i < count && c.ids[first_row + (begin + i) / width][(begin + i) % width] == expert) mine |= 1u << i;
    int32_t upto = __popc(mine);  // found by this lane and those before
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
      if (const int32_t below = __shfl_up_sync(kAllLanes, upto, step); lane >= step) upto += below;
    if (lane == 31) found_by[turn][warp] = upto;
    __syncthreads();
    int32_t rank = before + upto - __popc(mine);
    for (int w = 0; w < kWarps; ++w) before += found_by[turn][w], rank += w < warp ? found_by[turn][w] : 0;
#pragma unroll
    for (uint32_t i = 0; i < kScanned; ++i)
      if (mine >> i & 1) each(rank++, begin + i);
  }
  return before;
}

struct CountOnly {
  __device__ void operator()(int32_t, uint32_t) const {}
};

// counts: [windows, experts]
__global__ void __launch_bounds__(kSearchers) count_choices(int32_t* counts, Choices c) {
  const int64_t window = block_index() / c.experts, expert = block_index() % c.experts;
  if (window >= c.windows) return;
  const int32_t count = walk_choices(c, int32_t(expert), window * c.window, CountOnly());
  if (threadIdx.x == 0) counts[block_index()] = count;
}

// place[w, e]: where the choices that expert e keeps of window w begin.
__global__ void __launch_bounds__(kThreads) place_windows(int32_t* expert_begin, int32_t* place, const int32_t* counts,
                                                          int64_t windows, int64_t experts, int64_t capacity) {
  const auto kept = [&](int64_t at) { return counts[at] < capacity ? counts[at] : int32_t(capacity); };
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
    int32_t sum = 0;
    for (int64_t w = 0; w < windows; ++w) sum += kept(w * experts + e);
    expert_begin[e + 1] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    expert_begin[0] = 0;
    for (int64_t e = 0; e < experts; ++e) expert_begin[e + 1] += expert_begin[e];
  }
  __syncthreads();
  for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
    int32_t at = expert_begin[e];
    for (int64_t w = 0; w < windows; ++w) place[w * experts + e] = at, at += kept(w * experts + e);
  }
}

struct Placing {
  int32_t* sorted_rows;
  Rows<int32_t> place;
  const int32_t* begin;  // [windows, experts]
  int64_t capacity;
};

__global__ void __launch_bounds__(kSearchers) place_choices(Placing p, Choices c) {
  const int64_t window = block_index() / c.experts, expert = block_index() % c.experts;
  if (window >= c.windows) return;
  const int32_t begin = p.begin[block_index()];
  const uint32_t width = uint32_t(c.ids.width);
  walk_choices(c, int32_t(expert), window * c.window, [&](int32_t rank, uint32_t i) {
    const int64_t row = window * c.window + i / width;
    const bool kept = rank < p.capacity;
    p.place[row][i % width] = kept ? begin + rank : -1;
    if (kept) p.sorted_rows[begin + rank] = int32_t(row);
  });
}

__global__ void __launch_bounds__(kThreads) fill_rest(Placing p, Choices c, const int32_t* kept, int64_t choices) {
  const int64_t i = block_index() * kThreads + threadIdx.x;
  if (i >= choices) return;
  if (i >= *kept) p.sorted_rows[i] = -1;
  const int64_t row = i / c.ids.width, slot = i % c.ids.width;
  if (const int32_t expert = c.ids[row][slot]; expert < 0 || expert >= c.experts) p.place[row][slot] = INT32_MIN;
}

}  // namespace

void group_rows(Stream& stream, const GroupRows& op) {
  const Rows<const int32_t> ids = rows_of<const int32_t>(op.expert_ids);
  const int64_t experts = op.expert_begin.dim(0) - 1, window = op.rows_per_window(), windows = ids.count / window;
  const int64_t choices = ids.count * ids.width, most = INT32_MAX;
  expect(experts >= 0, "expert_begin holds one more entry than there are experts");
  expect(choices <= most, "places are i32");
  const Choices c{ids, experts, window, windows};
  const Scratch scratch(stream, size_t(2 * windows * experts + 1) * sizeof(int32_t));
  int32_t* const counts = op.choices ? op.choices.elements<int32_t>() : scratch.as<int32_t>();
  int32_t *const begin = scratch.as<int32_t>() + windows * experts, *const ends = op.expert_begin.elements<int32_t>();
  const int64_t capacity = op.capacity > 0 && op.capacity < most ? op.capacity : most;
  const Placing placing{op.sorted_rows.elements<int32_t>(), rows_of<int32_t>(op.place), begin, capacity};
  const char* const name = "group_rows";
  launch_blocks(stream, name, windows * experts, dim3(kSearchers), count_choices, counts, c);
  launch_blocks(stream, name, 1, dim3(kThreads), place_windows, ends, begin, static_cast<const int32_t*>(counts),
                windows, experts, capacity);
  launch_blocks(stream, name, windows * experts, dim3(kSearchers), place_choices, placing, c);
  launch_blocks(stream, name, divide_up(choices, kThreads), dim3(kThreads), fill_rest, placing, c,
                static_cast<const int32_t*>(ends + experts), choices);
}

}  // namespace fulgur::cuda

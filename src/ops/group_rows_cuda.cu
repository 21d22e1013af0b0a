// A stable sort of the choices by expert without atomics: a block for each expert and window counts its choices, then
// another adds up what stands before them and goes through them once more, in order. Few choices are sorted by one
// block at once. A choice that is no expert's gets a place outside, from which residual_norm makes NaN.
//
// Where nothing is dropped or counted for others, windows change no result: these are then shorter than the caller's.
#include <algorithm>

#include "ops/cuda/few_choices.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kSearchers = 1024, kScanned = 16;  // threads; choices that one looks at in one go
constexpr int kWarps = kSearchers / 32;
constexpr int kFewChoices = 1024, kFewExperts = 256;       // that one block sorts
constexpr int64_t kLeastWindow = 1024, kMostWindows = 64;  // where windows are ours

struct Choices {
  Rows<const int32_t> ids;
  int64_t experts, window, windows;  // window: its rows, of which the last may have fewer
};

// Calls each(rank, i) for the choices i of a window that are this expert's, with how many there are before; returns how
// many there are. A thread takes kScanned choices in a row, and what it finds stands after what the threads before
// found.
template <class Each>
__device__ int32_t walk_choices(const Choices& c, int32_t expert, int64_t first_row, const Each& each) {
  __shared__ int32_t found_by[2][kWarps];
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t rows = c.ids.count - first_row < c.window ? c.ids.count - first_row : c.window;
  const uint32_t width = uint32_t(c.ids.width), count = uint32_t(rows) * width;
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
  follow();
  const int64_t window = block_index() / c.experts, expert = block_index() % c.experts;
  if (window >= c.windows) return;
  const int32_t count = walk_choices(c, int32_t(expert), window * c.window, CountOnly());
  if (threadIdx.x == 0) counts[block_index()] = count;
}

struct Placing {
  int32_t *sorted_rows, *expert_begin;
  Rows<int32_t> place;
  const int32_t* counts;  // [windows, experts]
  int64_t capacity;
};

// Choices that have a place: before those of an expert in a window, and in all. By a whole block.
struct Kept {
  int32_t before, all;
  __device__ void add(const Kept& other) { before += other.before, all += other.all; }
};
__device__ Kept count_kept(const Placing& p, const Choices& c, int64_t window, int64_t expert) {
  __shared__ Kept of_warps[kWarps];
  Kept mine{0, 0};
  for (int64_t at = threadIdx.x; at < c.windows * c.experts; at += kSearchers) {
    const int64_t w = at / c.experts, e = at % c.experts;
    const int32_t kept = p.counts[at] < p.capacity ? p.counts[at] : int32_t(p.capacity);
    mine.add({e < expert || (e == expert && w < window) ? kept : 0, kept});
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    mine.add({__shfl_xor_sync(kAllLanes, mine.before, step), __shfl_xor_sync(kAllLanes, mine.all, step)});
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
  __syncthreads();
  Kept sum{0, 0};
  for (const Kept& warp : of_warps) sum.add(warp);
  return sum;
}

// What no expert takes: the end of sorted_rows, shared out over all blocks, and the choices of none, those of a window
// over its blocks.
__device__ void place_rest(const Placing& p, const Choices& c, int64_t window, int64_t expert, int32_t kept) {
  const int64_t choices = c.ids.count * c.ids.width, all = c.windows * c.experts * kSearchers;
  for (int64_t i = kept + block_index() * kSearchers + threadIdx.x; i < choices; i += all) p.sorted_rows[i] = -1;
  const int64_t first = window * c.window, left = c.ids.count - first;
  const uint32_t width = uint32_t(c.ids.width), count = uint32_t(left < c.window ? left : c.window) * width;
  for (uint32_t i = uint32_t(expert) * kSearchers + threadIdx.x; i < count; i += uint32_t(c.experts) * kSearchers) {
    const int64_t row = first + i / width, slot = i % width;
    if (const int32_t chosen = c.ids[row][slot]; chosen < 0 || chosen >= c.experts) p.place[row][slot] = INT32_MIN;
  }
}

__global__ void __launch_bounds__(kSearchers) place_choices(Placing p, Choices c) {
  follow();
  const int64_t window = block_index() / c.experts, expert = block_index() % c.experts;
  if (window >= c.windows) return;
  const Kept kept = count_kept(p, c, window, expert);
  if (threadIdx.x == 0 && window == 0) {
    p.expert_begin[expert] = kept.before;
    if (expert == 0) p.expert_begin[c.experts] = kept.all;
  }
  const uint32_t width = uint32_t(c.ids.width);
  walk_choices(c, int32_t(expert), window * c.window, [&](int32_t rank, uint32_t i) {
    const int64_t row = window * c.window + i / width;
    const bool keeps = rank < p.capacity;
    p.place[row][i % width] = keeps ? kept.before + rank : -1;
    if (keeps) p.sorted_rows[kept.before + rank] = int32_t(row);
  });
  place_rest(p, c, window, expert, kept.all);
}

__global__ void __launch_bounds__(kFewChoices) place_few(FewPlaces places, Rows<const int32_t> ids, int experts) {
  follow();
  __shared__ FewCounts<kFewChoices, kFewExperts> counts;
  const int thread = int(threadIdx.x), width = int(ids.width), choices = int(ids.count) * width;
  FewChoice choice{.expert = -1, .row = thread / width, .slot = thread % width};
  if (thread < choices) choice.expert = ids[choice.row][choice.slot];
  if (choices <= 32) place_choices_of_warp<kFewExperts>(places, choice, choices, experts);
  else place_few_choices(counts, places, choice, choices, experts);
}

void sort_few(Stream& stream, const GroupRows& op, const Choices& c) {
  const int64_t choices = c.ids.count * c.ids.width;
  const int64_t threads = choices <= 32 ? 32 : std::max<int64_t>(128, divide_up(choices, 32) * 32);
  launch_following(stream, "group_rows", 1, dim3(unsigned(threads)), place_few, few_places(op), c.ids, int(c.experts));
}

void sort_many(Stream& stream, const GroupRows& op, const Choices& c) {
  const int64_t counted = c.windows * c.experts;
  if (counted == 0) return clear(stream, op.expert_begin);
  const Scratch scratch(stream, size_t(counted) * sizeof(int32_t));
  int32_t* const counts = op.choices ? op.choices.elements<int32_t>() : scratch.as<int32_t>();
  launch_following(stream, "group_rows", counted, dim3(kSearchers), count_choices, counts, c);
  launch_following(stream, "group_rows", counted, dim3(kSearchers), place_choices,
                   Placing{.sorted_rows = op.sorted_rows.elements<int32_t>(),
                           .expert_begin = op.expert_begin.elements<int32_t>(),
                           .place = rows_of<int32_t>(op.place),
                           .counts = counts,
                           .capacity = capacity_of(op)},
                   c);
}

}  // namespace

void group_rows(Stream& stream, const GroupRows& op) {
  const Rows<const int32_t> ids = rows_of<const int32_t>(op.expert_ids);
  const int64_t experts = op.expert_begin.dim(0) - 1, choices = ids.count * ids.width;
  expect(experts > 0, "expert_begin holds one more entry than there are experts");
  expect(choices <= kNoCapacity, "places are i32");
  const int64_t window =
      windows_matter(op) ? op.rows_per_window() : std::max(kLeastWindow, divide_up(ids.count, kMostWindows));
  const Choices c{ids, experts, window, divide_up(ids.count, window)};
  const bool few = choices <= kFewChoices && experts <= kFewExperts && c.windows == 1 && choices > 0;
  (few ? sort_few : sort_many)(stream, op, c);
}

}  // namespace fulgur::cuda

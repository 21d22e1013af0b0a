// y = x w^T of few rows, for Hopper: the weights, which take the time, stream through as the left factor. The bits of
// ops/cuda/hopper_products.cuh.
//
// A thread block computes 64 outputs of up to kRows rows: a warp loads stages of 64 steps, four warps multiply. Rows of
// x come as a box, or one by one from wherever they lie.
#pragma once
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/hopper_products.cuh"

namespace fulgur::cuda::hopper_products {

inline constexpr int kOutputs = 64, kFewRowsThreads = kWarpgroup + 32, kFewRowsBytes = 100 << 10,
                     kMoreRowsBytes = 200 << 10;

template <class Y>
struct FewRows {
  static constexpr int kPartOutputs = kOutputs;
  static constexpr bool kGathers = false;
  TensorMap w, x;
  Y* y;
  int64_t y_row;
  int rows, out, in;
  Groups groups;
  bool every_group;  // has weights asked for before its rows are known: there are that many
};

template <int kRows, int kBytes = kFewRowsBytes>
struct FewRowsShared {
  struct Stage {
    uint8_t w[kTileBytes], x[kRows * kTileRowBytes];
  };
  static constexpr int kStageSteps = kSteps;
  static constexpr int kStages = kBytes / int(sizeof(Stage));
  Stage stages[kStages];
  uint64_t full[kStages], empty[kStages];
};

template <int kRows>
__device__ inline void multiply_rows_16(float (&sums)[kRows / 2], uint64_t w, uint64_t x) {
  if constexpr (kRows == 8) multiply_64x8x16<0, 0>(sums, w, x, 1);
  else if constexpr (kRows == 16) multiply_64x16x16<0, 0>(sums, w, x, 1);
  else if constexpr (kRows == 32) multiply_64x32x16<0, 0>(sums, w, x, 1);
  else multiply_64x64x16<0, 0>(sums, w, x, 1);
}

// Outputs [out, out + F::kPartOutputs) of rows [row, row_end), at most kRows of them.
struct FewRowsPart {
  int group, out, row, row_end;
};
// In tiles of kRows rows, group by group but for the first `without` of each: the number-th one. All lanes of a warp
// call it; each looks at one group of 32.
template <int kRows>
__device__ inline bool find_tile(const Groups& groups, int without, int number, FewRowsPart& part) {
  const int lane = int(threadIdx.x) % 32;
  int before = 0;
  for (int first = 0; first < groups.count; first += 32) {
    const bool there = first + lane < groups.count;
    const int row = there ? groups.begin[first + lane] : 0, row_end = there ? groups.begin[first + lane + 1] : 0;
    const int all = int(divide_up(row_end - row, kRows)), tiles = all - min(all, without);
    int upto = tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
      if (const int below = __shfl_up_sync(kAllLanes, upto, step); lane >= step) upto += below;
    const uint32_t from = __ballot_sync(kAllLanes, number < before + upto);
    if (from != 0) {
      const int owner = __ffs(int(from)) - 1;
      part.group = first + owner;
      part.row = __shfl_sync(kAllLanes, row + (without + number - (before + upto - tiles)) * kRows, owner);
      part.row_end = __shfl_sync(kAllLanes, row_end, owner);
      return true;
    }
    before += __shfl_sync(kAllLanes, upto, 31);
  }
  return false;
}

// Whether a block knows its weights before anything is read, and which then: where there are no groups, and where each
// is to have its first tile, with rows or without.
template <class F>
__device__ inline bool knows_weights(const F& f, int number, FewRowsPart& part) {
  part.group = f.groups.begin ? number : 0;
  return !f.groups.begin || (f.every_group && number < f.groups.count);
}
template <int kRows, class F>
__device__ bool find_rows(const F& f, int number, FewRowsPart& part) {
  if (!f.groups.begin) {
    part.row = number * kRows, part.row_end = f.rows;
    return part.row < f.rows;
  }
  if (!knows_weights(f, number, part))
    return find_tile<kRows>(f.groups, f.every_group ? 1 : 0, f.every_group ? number - int(f.groups.count) : number,
                            part);
  part.row = f.groups.begin[part.group], part.row_end = f.groups.begin[part.group + 1];
  return true;
}

template <class Y>
__device__ inline void prefetch_maps(const FewRows<Y>& f) {
  prefetch_map(f.w), prefetch_map(f.x);
}
template <class Stage, class Y>
__device__ inline void copy_weights(Stage& stage, const FewRows<Y>& f, int k, const FewRowsPart& part, uint32_t full) {
  copy_box(shared_address(stage.w), f.w, k, part.out, part.group, full);
}

template <class Shared>
__device__ inline void await_room(Shared& shared, int i) {
  barrier_wait(shared_address(&shared.empty[i % Shared::kStages]), uint32_t(i / Shared::kStages + 1) % 2);
}
// The i-th stage's weights, where there is room, and its rows of x; how they lie in a stage is Shared's.
template <class Shared, class F>
__device__ void ask_weights(Shared& shared, const F& f, const FewRowsPart& part, int i) {
  typename Shared::Stage& stage = shared.stages[i % Shared::kStages];
  const uint32_t full = shared_address(&shared.full[i % Shared::kStages]);
  barrier_arrive_expecting(full, int(F::kGathers ? sizeof stage.w : sizeof stage));
  copy_weights(stage, f, i * Shared::kStageSteps, part, full);
}
template <class Shared, class F>
__device__ void ask_rows(Shared& shared, const F& f, const FewRowsPart& part, int i) {
  typename Shared::Stage& stage = shared.stages[i % Shared::kStages];
  const uint32_t full = shared_address(&shared.full[i % Shared::kStages]);
  constexpr int kBytes = int(sizeof stage.x) / (Shared::kStageSteps / kSteps);
  for (int k = 0; k < Shared::kStageSteps; k += kSteps)
    copy_box(shared_address(stage.x) + uint32_t(k / kSteps * kBytes), f.x, i * Shared::kStageSteps + k, part.row, 0,
             full);
}

template <class Shared, class F>
__device__ inline int stages_of(const F& f) {
  return int(divide_up(f.in, Shared::kStageSteps));
}
// Weights on their way before the kernels before have ended: none of a forward pass writes them, and its first one
// began when all before it had ended (ops/embedding_cuda.cu). How many stages they are.
template <class Shared, class F>
__device__ int ask_early_weights(Shared& shared, const F& f, const FewRowsPart& part) {
  const int stages = min(stages_of<Shared>(f), Shared::kStages);
  for (int i = 0; i < stages; ++i) ask_weights(shared, f, part, i);
  return stages;
}
// asked: stages whose weights are on their way.
template <class Shared, class F>
__device__ void load_boxes(Shared& shared, const F& f, const FewRowsPart& part, int asked) {
  for (int i = 0; i < stages_of<Shared>(f); ++i) {
    if (i >= asked) await_room(shared, i), ask_weights(shared, f, part, i);
    ask_rows(shared, f, part, i);
  }
}

// Row i of x is row numbers[i] of `data`; zeros where that is not one of its `count`.
struct GatheredRows {
  const bf16* data;
  int64_t row;
  const int32_t* numbers;
  int64_t count;
};

// Copies a part's rows of x: a lane has 16 bytes of every fourth row's 128. Where a part has no rows, tiles keep what
// was there: no sum that is stored reads it.
template <int kRows>
class Gatherer {
 public:
  __device__ Gatherer(const GatheredRows& x, const FewRowsPart& part, int columns)
      : x_(x),
        columns_(columns),
        row_(int(threadIdx.x) % 32 / 8),
        column_(int(threadIdx.x) % 8 * 8),
        rows_(min(kRows, part.row_end - part.row)) {
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) number_[i] = row_ + 4 * i < rows_ ? x.numbers[part.row + row_ + 4 * i] : -1;
  }

  // Columns [k, k + 64) to a tile.
  __device__ void copy(uint8_t* tile, int k) const {
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) {
      const int row = row_ + 4 * i, number = number_[i];
      const bool there = number >= 0 && number < x_.count && k + column_ < columns_;
      if (row < rows_)
        copy_async(tile + tile_offset(row, column_), x_.data + (there ? number * x_.row + k + column_ : 0), there);
    }
  }

 private:
  const GatheredRows& x_;
  int columns_, row_, column_, rows_, number_[kRows / 4];
};

// The same by a warp, weights by its first lane, which alone knows what was asked.
template <int kRows, class Shared, class F>
__device__ void load_gathered(Shared& shared, const F& f, const FewRowsPart& part, int asked) {
  const Gatherer<kRows> rows(f.x, part, f.in);
  const int stages = stages_of<Shared>(f), first = min(stages, Shared::kStages);
  const bool asks = threadIdx.x % 32 == 0;
  for (int i = asked; asks && i < first; ++i) ask_weights(shared, f, part, i);
  __syncwarp();
  for (int i = 0; i < stages; ++i) {
    if (i >= first) {
      await_room(shared, i);
      if (asks) ask_weights(shared, f, part, i);
    }
    typename Shared::Stage& stage = shared.stages[i % Shared::kStages];
    for (int k = 0; k < Shared::kStageSteps; k += kSteps)
      rows.copy(reinterpret_cast<uint8_t*>(stage.x) + k / kSteps * kRows * kTileRowBytes, i * Shared::kStageSteps + k);
    arrive_with_copies(shared_address(&shared.full[i % Shared::kStages]));
  }
  wait_for_copies();  // before the warp ends
}

// For a stage, by those who multiply. What was gathered is made visible to products here: who copied did not wait.
template <class Shared, class F>
__device__ inline void await_stage(Shared& shared, const F&, int i) {
  barrier_wait_for_copies(shared_address(&shared.full[i % Shared::kStages]), uint32_t(i / Shared::kStages) % 2);
  if constexpr (F::kGathers) fence_for_products();
}

// body(i, row, output) for the sums of a thread: from its first output and the part's first row on.
template <int kRows, class Body>
__device__ inline void for_each_sum(const Body& body) {
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) body(i, i / 4 * 8 + int(threadIdx.x) % 4 * 2 + i % 2, i / 2 % 2 * 8);
}
// A thread's sums, of output `first` of the part and eight further.
template <int kRows, class F, class Y>
__device__ void store_few_rows(const F& f, Y* y, const FewRowsPart& part, int first, const float (&sums)[kRows / 2]) {
  for_each_sum<kRows>([&](int i, int row, int output) {
    const int r = part.row + row, o = part.out + first + output;
    if (r < part.row_end && o < f.out) put_number(y + r * f.y_row + o, sums[i]);
  });
}

template <int kRows, int kBytes, class F>
__device__ void sum_few_rows(float (&sums)[kRows / 2], FewRowsShared<kRows, kBytes>& shared, const F& f,
                             const FewRowsPart&) {
  using S = FewRowsShared<kRows, kBytes>;
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sums[i] = 0;
  settle(sums);
  for (int k = 0, i = 0; k < f.in; k += kSteps, ++i) {
    typename S::Stage& stage = shared.stages[i % S::kStages];
    await_stage(shared, f, i);
    const uint64_t w = tile_descriptor(shared_address(stage.w)), x = tile_descriptor(shared_address(stage.x));
    products_begin();
#pragma unroll
    for (int step = 0; step < kSteps / 16; ++step)
      multiply_rows_16<kRows>(sums, further(w, step * 32), further(x, step * 32));
    products_commit();
    products_wait<1>();
    __syncwarp();
    if (i > 0 && threadIdx.x % 32 == 0) barrier_arrive(shared_address(&shared.empty[(i - 1) % S::kStages]));
  }
  products_wait<0>(sums);
}

// The thread's of its part.
__device__ inline int first_output() { return int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4; }
template <int kRows, class Shared, class Y>
__device__ void finish_few_rows(const float (&sums)[kRows / 2], Shared&, const FewRows<Y>& f, const FewRowsPart& part) {
  store_few_rows<kRows>(f, f.y, part, first_output(), sums);
}

// Rows of no group become zero: the loader of the first blocks, of its outputs. Mostly there is none.
template <class F>
__device__ void clear_ungrouped(const F& f) {
  const int out = int(blockIdx.x) * F::kPartOutputs + int(threadIdx.x) % 32;
  if (!f.groups.begin || out >= f.out) return;
  for (int row = f.groups.begin[f.groups.count]; row < f.rows; ++row)
    for (int o = out; o < min(f.out, out + F::kPartOutputs); o += 32) put_number(f.y + row * f.y_row + o, 0);
}

// What a thread block does first. The shared memory, and how many arrivals fill a stage.
template <class Shared, class F>
__device__ __forceinline__ Shared& begin_few_rows(const F& f, int arrivals) {
  let_next_begin();
  if (threadIdx.x == kWarpgroup) prefetch_maps(f);  // while the kernels before run
  unsigned char* const memory = dynamic_shared();
  auto& shared = *reinterpret_cast<Shared*>(memory + (-shared_address(memory) & 1023));
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shared::kStages; ++stage)
      barrier_init(shared_address(&shared.full[stage]), arrivals),
          barrier_init(shared_address(&shared.empty[stage]), kWarpgroup / 32);
    barriers_are_ready();
  }
  __syncthreads();
  return shared;
}

// The loader and the multipliers of a thread block; Shared is their memory.
template <int kRows, class Shared, class F>
__device__ __forceinline__ void run_few_rows(const F& f) {
  Shared& shared = begin_few_rows<Shared>(f, F::kGathers ? 1 + 32 : 1);
  const int across = int(divide_up(f.out, F::kPartOutputs)), number = int(blockIdx.x) / across;
  FewRowsPart part{.group = 0, .out = int(blockIdx.x) % across * F::kPartOutputs, .row = 0, .row_end = 0};
  int asked = 0;
  if (knows_weights(f, number, part) && threadIdx.x == kWarpgroup) asked = ask_early_weights(shared, f, part);
  await_previous();
  const bool found = find_rows<kRows>(f, number, part);
  if (threadIdx.x < kWarpgroup) {
    if (!found) return;
    float sums[kRows / 2];
    sum_few_rows(sums, shared, f, part);
    finish_few_rows<kRows>(sums, shared, f, part);
    return;
  }
  if constexpr (F::kGathers) {
    if (found) load_gathered<kRows>(shared, f, part, asked);
  } else {
    if (found && threadIdx.x == kWarpgroup) load_boxes(shared, f, part, asked);
  }
  clear_ungrouped(f);
}

template <int kRows, class Stages, class Y>
__global__ void __launch_bounds__(kFewRowsThreads) multiply_few(const __grid_constant__ FewRows<Y> f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  run_few_rows<kRows, Stages>(f);
#endif
}

}  // namespace fulgur::cuda::hopper_products

// y = x w^T of few rows, for Hopper: the weights, which take the time, stream through as the left factor. The bits of
// ops/cuda/hopper_products.cuh.
//
// A thread block computes 64 outputs of up to kRows rows: a warp loads stages of 64 steps, four warps multiply.
#pragma once
#include "ops/cuda/hopper_products.cuh"

namespace fulgur::cuda::hopper_products {

inline constexpr int kOutputs = 64, kFewRowsThreads = kWarpgroup + 32, kFewRowsBytes = 100 << 10,
                     kMoreRowsBytes = 200 << 10;

template <class Y>
struct FewRows {
  static constexpr int kPartOutputs = kOutputs;
  TensorMap w, x;
  Y* y;
  int64_t y_row;
  int rows, out, in;
  Groups groups;
};

template <int kRows>
struct FewRowsShared {
  struct Stage {
    uint8_t w[kTileBytes], x[kRows * kTileRowBytes];
  };
  static constexpr int kStageSteps = kSteps;
  static constexpr int kStages = (kRows < 64 ? kFewRowsBytes : kMoreRowsBytes) / int(sizeof(Stage));
  Stage stages[kStages];
  uint64_t full[kStages], empty[kStages];
};

template <int kRows>
__device__ inline void multiply_rows_16(float (&sums)[kRows / 2], uint64_t w, uint64_t x) {
  if constexpr (kRows == 8) multiply_64x8x16<0, 0>(sums, w, x, 1);
  else if constexpr (kRows == 32) multiply_64x32x16<0, 0>(sums, w, x, 1);
  else multiply_64x64x16<0, 0>(sums, w, x, 1);
}

// Outputs [out, out + F::kPartOutputs) of rows [row, row_end), at most kRows of them.
struct FewRowsPart {
  int group, out, row, row_end;
};
template <int kRows, class F>
__device__ bool find_rows(const F& f, FewRowsPart& part) {
  const int across = int(divide_up(f.out, F::kPartOutputs));
  int down = int(blockIdx.x) / across;
  part.out = int(blockIdx.x) % across * F::kPartOutputs;
  for (part.group = 0; part.group < f.groups.count; ++part.group) {
    part.row = f.groups.begin ? f.groups.begin[part.group] : 0;
    part.row_end = f.groups.begin ? f.groups.begin[part.group + 1] : f.rows;
    const int tiles = int(divide_up(part.row_end - part.row, kRows));
    if (down < tiles) {
      part.row += down * kRows;
      return true;
    }
    down -= tiles;
  }
  return false;
}

template <class Stage, class F>
__device__ inline void copy_weights(Stage& stage, const F& f, int k, const FewRowsPart& part, uint32_t full) {
  copy_box(shared_address(stage.w), f.w, k, part.out, part.group, full);
}

// The i-th stage's weights, when there is room, and its rows of x; how they lie in a stage is Shared's.
template <class Shared, class F>
__device__ void ask_weights(Shared& shared, const F& f, const FewRowsPart& part, int i) {
  typename Shared::Stage& stage = shared.stages[i % Shared::kStages];
  const uint32_t full = shared_address(&shared.full[i % Shared::kStages]);
  barrier_wait(shared_address(&shared.empty[i % Shared::kStages]), uint32_t(i / Shared::kStages + 1) % 2);
  barrier_arrive_expecting(full, int(sizeof stage));
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

// Weights are on their way before the kernels before have ended: none of a forward pass writes them, and its first one
// began when all before it had ended (ops/embedding_cuda.cu). Not those of groups, which are read from memory.
template <class Shared, class F>
__device__ void load_few_rows(Shared& shared, const F& f, const FewRowsPart& part) {
  const int stages = int(divide_up(f.in, Shared::kStageSteps)),
            early = f.groups.begin ? 0 : min(stages, Shared::kStages);
  for (int i = 0; i < early; ++i) ask_weights(shared, f, part, i);
  await_previous();
  for (int i = 0; i < stages; ++i) {
    if (i >= early) ask_weights(shared, f, part, i);
    ask_rows(shared, f, part, i);
  }
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

template <int kRows, class F>
__device__ void sum_few_rows(float (&sums)[kRows / 2], FewRowsShared<kRows>& shared, const F& f) {
  using S = FewRowsShared<kRows>;
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) sums[i] = 0;
  settle(sums);
  for (int k = 0, i = 0; k < f.in; k += kSteps, ++i) {
    typename S::Stage& stage = shared.stages[i % S::kStages];
    barrier_wait_for_copies(shared_address(&shared.full[i % S::kStages]), uint32_t(i / S::kStages) % 2);
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

template <int kRows, class F>
__device__ void multiply_few_rows(FewRowsShared<kRows>& shared, const F& f, const FewRowsPart& part) {
  float sums[kRows / 2];
  sum_few_rows<kRows>(sums, shared, f);
  store_few_rows<kRows>(f, f.y, part, int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, sums);
}

// Rows of no group become zero: one warp of the first blocks, of its outputs. Mostly there is none.
template <class F>
__device__ void clear_ungrouped(const F& f) {
  const int out = int(blockIdx.x) * F::kPartOutputs + int(threadIdx.x) % 32;
  if (!f.groups.begin || out >= f.out) return;
  for (int row = f.groups.begin[f.groups.count]; row < f.rows; ++row)
    for (int o = out; o < min(f.out, out + F::kPartOutputs); o += 32) put_number(f.y + row * f.y_row + o, 0);
}

// The loader and the multipliers of a thread block; Shared is their memory.
template <int kRows, class Shared, class F>
__device__ __forceinline__ void run_few_rows(const F& f) {
  let_next_begin();
  unsigned char* const memory = dynamic_shared();
  auto& shared = *reinterpret_cast<Shared*>(memory + (-shared_address(memory) & 1023));
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shared::kStages; ++stage)
      barrier_init(shared_address(&shared.full[stage]), 1),
          barrier_init(shared_address(&shared.empty[stage]), kWarpgroup / 32);
    barriers_are_ready();
  }
  __syncthreads();
  if (f.groups.begin || threadIdx.x != kWarpgroup) await_previous();  // else the loader does
  if (threadIdx.x >= kWarpgroup) clear_ungrouped(f);
  FewRowsPart part;
  if (!find_rows<kRows>(f, part)) return;
  if (threadIdx.x < kWarpgroup) multiply_few_rows<kRows>(shared, f, part);
  else if (threadIdx.x == kWarpgroup) load_few_rows(shared, f, part);
}

template <int kRows, class Y>
__global__ void __launch_bounds__(kFewRowsThreads) multiply_few(const __grid_constant__ FewRows<Y> f) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernels of more rows
  run_few_rows<kRows, FewRowsShared<kRows>>(f);
#endif
}

}  // namespace fulgur::cuda::hopper_products

// Lightning attention forward for Hopper's tensor cores (ops/cuda/lightning_hopper.cuh): its kernels and their launch.
#include <algorithm>
#include <bit>
#include <optional>

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/lightning_hopper_products.cuh"
#include "ops/cuda/lightning_kernels.h"
#include "ops/cuda/lightning_operands.cuh"
#include "ops/cuda/lightning_segments.cuh"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace hopper {
namespace {

constexpr int kWalkThreads = 5 * kWarpgroup, kChainThreads = 256;
constexpr int64_t kFewHeads = 32;  // too few for the card, so that a long sequence may be cut

// The first multiple of 1,024 bytes of shared memory.
template <class T>
__device__ T& shared_as() {
  unsigned char* const bytes = dynamic_shared();
  return *reinterpret_cast<T*>(bytes + (1024 - shared_address(bytes) % 1024) % 1024);
}

__device__ void load_blocks(const Operands& p, const Items& items, Shared& shared, const Barriers& barriers, int half,
                            int part) {
  Stage& first = shared.stage[0];
  Duty duty{};
  duty.part = part, duty.half = half, duty.stage_bytes = sizeof(Stage), duty.raw = shared.raw[part];
  duty.tile = shared_address(part == kQ ? first.q[half] : part == kK ? first.k[half] : first.v);
  duty.aged = shared_address(first.aged), duty.passed_on = part != kV;
  Loader(p, items, duty, barriers, part == kQ && half == 0 && p.squares ? shared.squares : nullptr).run();
}

__global__ void __launch_bounds__(kWalkThreads, 1) walk_blocks(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  let_next_begin();
  Shared& shared = shared_as<Shared>();
  const int half = int(blockIdx.x % 2), thread = int(threadIdx.x);
  const Barriers barriers(shared, half);
  const Items items(p, shared.walks);
  await_previous();
  items.find();
  if (thread < kStages * kGrid) shared.squares[thread / kGrid].to[thread % kGrid] = nullptr;
  if (thread == 0) barriers.begin();
  barriers_are_ready();
  cluster_arrive(), cluster_wait();
  if (thread < kWarpgroup) {
    registers_up<152>();
    RowsMaker(p, items, shared, barriers, half, thread).run();
  } else if (thread < 2 * kWarpgroup) {
    registers_up<112>();
    StateKeeper(p, items, shared, barriers, half, thread - kWarpgroup).run();
  } else {
    registers_down<72>();
    load_blocks(p, items, shared, barriers, half, thread / kWarpgroup - 2);
  }
  cluster_arrive(), cluster_wait();  // nothing is sent any more
#endif
}

__global__ void __launch_bounds__(kSumThreads, 1) sum_segments_kernel(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
  follow();
  SumShared& shared = shared_as<SumShared>();
  const int warpgroup = int(threadIdx.x) / kWarpgroup, half = int(blockIdx.x % 2);
  const StageBarriers barriers{shared_address(shared.full), shared_address(shared.empty), 0};
  const Items items(p, shared.walks);
  items.find();
  if (threadIdx.x == 0)
    for (int i = 0; i < kStages; ++i)
      barrier_init(barriers.full + 8 * i, kSumLoaders * kWarpgroup / 32),
          barrier_init(barriers.empty + 8 * i, kWarpgroup / 32);
  barriers_are_ready();
  __syncthreads();
  if (warpgroup == 0) sum_segments(p, items, shared, barriers, half);
  else load_segments(p, items, shared, barriers, half, warpgroup - 1);
#endif
}

__global__ void __launch_bounds__(kChainThreads) chain_segments_kernel(const __grid_constant__ Operands p) {
  follow();
  const int64_t blocks = int64_t(p.heads) * kStateSize / 4 / kChainThreads;  // of a sequence
  chain_segments(p, blockIdx.x % blocks * kChainThreads + threadIdx.x, int(blockIdx.x / blocks));
}

Operands operands_of(const LightningAttention& op) {
  const Tensor &o = op.o, &qkv = op.qkv, &state = op.state, &tail = op.tail;
  return {.o = data_of<bf16>(o),
          .qkv = data_of<const bf16>(qkv),
          .decay = data_of<const float>(op.decay),
          .row_begin = data_of<const int32_t>(op.row_begin),
          .positions = data_of<const int64_t>(op.positions),
          .slots = data_of<const int32_t>(op.slots),
          .state = data_of<float>(state),
          .tail = data_of<bf16>(tail),
          .squares = data_of<float>(op.squares),
          .heads = int(o.dim(1)),
          .items = int((op.row_begin.dim(0) - 1) * o.dim(1)),
          .o_row = o.stride[0],
          .o_head = o.stride[1],
          .qkv_row = qkv.stride[0],
          .qkv_head = qkv.stride[1],
          .qkv_part = qkv.stride[2],
          .state_slot = state.stride[0],
          .state_head = state.stride[1],
          .tail_slot = tail.stride[0],
          .tail_head = tail.stride[1],
          .squares_head = op.squares.stride[0]};
}

// `kernel` on as many clusters of two as run at once, which share the items out.
template <class SharedMemory>
void launch_on_items(Stream& stream, const char* name, void (*kernel)(Operands), const Operands& operands,
                     int threads) {
  const size_t bytes = sizeof(SharedMemory) + 1024;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  const int64_t clusters = std::min<int64_t>(operands.items, processors() / 2);
  launch(stream, name, {dim3(unsigned(2 * clusters)), dim3(unsigned(threads)), bytes, 2, true}, kernel, operands);
}

void find_starts(Stream& stream, Operands operands, int64_t sequences) {
  operands.finds_starts = true;
  launch_on_items<SumShared>(stream, "lightning_attention: sums", sum_segments_kernel, operands, kSumThreads);
  const int64_t blocks = int64_t(operands.heads) * kStateSize / 4 / kChainThreads * sequences;
  launch(stream, "lightning_attention: starts",
         {.blocks = dim3(unsigned(blocks)), .threads = dim3(kChainThreads), .follows = true}, chain_segments_kernel,
         operands);
}

}  // namespace
}  // namespace hopper

bool is_for_hopper(int64_t head_dim) { return is_hopper() && head_dim == hopper::kHeadSize; }

void lightning_attention_hopper(Stream& stream, const LightningAttention& op) {
  expect_vectors(op.o, op.qkv, op.state, op.tail);
  expect(!op.state || (op.state.stride[2] == hopper::kHeadSize && op.tail.stride[3] == hopper::kHeadSize &&
                       op.tail.stride[2] == kGrid * hopper::kHeadSize),
         "a head's state and tail lie end to end");
  expect(!op.starts || op.starts.dense(), "starts lie end to end");
  hopper::Operands operands = hopper::operands_of(op);
  const auto walk = [&] {
    hopper::launch_on_items<hopper::Shared>(stream, "lightning_attention", hopper::walk_blocks, operands,
                                            hopper::kWalkThreads);
  };
  constexpr uint64_t kRows = LightningAttention::kSegment, kPromptRows = LightningAttention::kPromptSegment;
  static_assert(std::has_single_bit(kRows) && std::has_single_bit(kPromptRows));
  const int64_t segment_rows = int64_t(op.slots ? kPromptRows : kRows);
  operands.segment_shift = std::countr_zero(uint64_t(segment_rows));
  if (op.in_order || op.longest <= segment_rows || operands.heads > hopper::kFewHeads) return walk();
  const int64_t sequences = op.row_begin.dim(0) - 1;
  operands.segments = int((op.longest - 1) / segment_rows) + 2, operands.items *= operands.segments;
  std::optional<Scratch> scratch;
  if (op.starts) {
    operands.starts = data_of<float>(op.starts);
  } else {
    const int64_t starts = op.o.dim(0) / segment_rows + 1 + (op.slots ? sequences : 0);
    scratch.emplace(stream, size_t(starts * operands.heads * hopper::kStateSize) * sizeof(float));
    operands.starts = scratch->as<float>();
  }
  hopper::find_starts(stream, operands, sequences);
  walk();
}

}  // namespace fulgur::cuda

// Lightning attention forward for Hopper's tensor cores (ops/cuda/lightning_hopper.cuh): its kernel and its launch.
#include <algorithm>

#include "ops/cuda/lightning_hopper_load.cuh"
#include "ops/cuda/lightning_hopper_products.cuh"
#include "ops/cuda/lightning_kernels.h"
#include "ops/cuda/lightning_operands.cuh"

namespace fulgur::cuda {
namespace hopper {
namespace {

__global__ void __launch_bounds__(kThreads, 1) walk_blocks(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  Shared& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) / 1024 * 1024);
  const int half = int(blockIdx.x % 2), thread = int(threadIdx.x);
  const Barriers barriers(shared, half);
  if (thread < kStages * kGrid) shared.squares_at[thread / kGrid][thread % kGrid] = nullptr;
  if (thread == 0) barriers.begin();
  barriers_are_ready();
  cluster_arrive(), cluster_wait();
  if (thread < kWarpgroup) {
    registers_up<160>();
    RowsMaker(p, shared, barriers, half, thread).run();
  } else if (thread < 2 * kWarpgroup) {
    registers_down<128>();
    StateKeeper(p, shared, barriers, half, thread - kWarpgroup).run();
  } else {
    registers_down<112>();
    Loader(p, shared, barriers, half, thread - 2 * kWarpgroup).run();
  }
  cluster_arrive(), cluster_wait();  // nothing is sent any more
#endif
}

template <class T>
T* data_of(const Tensor& t) {
  return t ? reinterpret_cast<T*>(t.data) : nullptr;
}

int64_t processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace
}  // namespace hopper

bool is_for_hopper(const LightningAttention& op) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major == 9 && op.o.dim(2) == hopper::kHeadSize;
}

void lightning_attention_hopper(Stream& stream, const LightningAttention& op) {
  expect_vectors(op.o, op.qkv, op.state, op.tail);
  const Tensor &o = op.o, &qkv = op.qkv, &state = op.state, &tail = op.tail;
  expect(!state || (state.stride[2] == hopper::kHeadSize && tail.stride[3] == hopper::kHeadSize &&
                    tail.stride[2] == kGrid * hopper::kHeadSize),
         "a head's state and tail lie end to end");
  const hopper::Operands operands{.o = hopper::data_of<bf16>(o),
                                  .qkv = hopper::data_of<const bf16>(qkv),
                                  .decay = hopper::data_of<const float>(op.decay),
                                  .row_begin = hopper::data_of<const int32_t>(op.row_begin),
                                  .positions = hopper::data_of<const int64_t>(op.positions),
                                  .slots = hopper::data_of<const int32_t>(op.slots),
                                  .state = hopper::data_of<float>(state),
                                  .tail = hopper::data_of<bf16>(tail),
                                  .squares = hopper::data_of<float>(op.squares),
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
  const size_t bytes = sizeof(hopper::Shared) + 1024;
  check(cudaFuncSetAttribute(hopper::walk_blocks, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute");
  const int64_t clusters = std::min<int64_t>(operands.items, hopper::processors() / 2);
  launch(stream, "lightning_attention", {dim3(unsigned(2 * clusters)), dim3(hopper::kThreads), bytes, 2},
         hopper::walk_blocks, operands);
}

}  // namespace fulgur::cuda

// Lightning attention forward for Hopper's tensor cores (ops/cuda/lightning_hopper.cuh): its kernel and its launch.
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/lightning_hopper.cuh"
#include "ops/cuda/lightning_kernels.h"
#include "ops/cuda/lightning_operands.cuh"

namespace fulgur::cuda {
namespace hopper {
namespace {

__global__ void __launch_bounds__(kMultipliers + kLoaders, 1) walk_blocks(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  Shared& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) / 1024 * 1024);
  const int half = int(blockIdx.x % 2), thread = int(threadIdx.x);
  const int64_t head = blockIdx.x / 2 % p.heads;
  const Sequence s(p, blockIdx.x / 2 / p.heads);
  const auto full = [&](int64_t block) { return shared_address(&shared.full[block % 2]); };
  const auto empty = [&](int64_t block) { return shared_address(&shared.empty[block % 2]); };
  if (thread <= kGrid) shared.power[thread] = expf(-(p.decay[head] * float(thread)));
  if (thread == 0)
    for (int i = 0; i < 2; ++i) barrier_init(full(i), kLoaders), barrier_init(empty(i), kMultipliers);
  barriers_are_ready();
  __syncthreads();

  if (thread < kMultipliers) {
    registers_up<232>();
    Multiplier multiplier(p, s, shared, head, half, thread);
    for (int64_t block = 0; block < s.blocks; ++block) {
      barrier_wait(full(block), uint32_t(block / 2 % 2));
      multiplier.block(block, empty(block));
    }
    if (s.blocks > 0) multiplier.leave();
    cluster_arrive(), cluster_wait();
  } else {
    registers_down<104>();
    const Loader loader(p, s, head, half, thread - kMultipliers);
    Carried now, next;
    if (s.blocks > 0) loader.load(now, 0);
    for (int64_t block = 0; block < s.blocks; ++block) {
      if (block + 1 < s.blocks) loader.load(next, block + 1);
      if (block >= 2) barrier_wait(empty(block), uint32_t((block / 2 - 1) % 2));
      loader.lay_out(now, shared.stage[block % 2], shared.power, block);
      fence_for_products();
      barrier_arrive(full(block));
      if (block + 1 < s.blocks) now = next;
    }
    cluster_arrive(), cluster_wait();  // both halves have read the tail before either writes it
    if (p.slots && s.blocks > 0 && s.present(s.blocks - 1) < kGrid) loader.remember(now, s.blocks - 1);
  }
#endif
}

template <class T>
T* data_of(const Tensor& t) {
  return t ? reinterpret_cast<T*>(t.data) : nullptr;
}

}  // namespace
}  // namespace hopper

bool is_for_hopper(int64_t head_dim) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major == 9 && head_dim == hopper::kHeadSize;
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
                                  .heads = o.dim(1),
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
  if (op.squares)
    check(cudaMemset2DAsync(op.squares.data, size_t(op.squares.stride[0]) * sizeof(float), 0,
                            size_t(op.squares.dim(1)) * sizeof(float), size_t(op.squares.dim(0)),
                            static_cast<cudaStream_t>(stream.native())),
          "cudaMemset2DAsync");
  const size_t bytes = sizeof(hopper::Shared) + 1024;
  check(cudaFuncSetAttribute(hopper::walk_blocks, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute");
  const int64_t walks = (op.row_begin.dim(0) - 1) * o.dim(1);
  launch(stream, "lightning_attention",
         {dim3(unsigned(2 * walks)), dim3(hopper::kMultipliers + hopper::kLoaders), bytes, 2}, hopper::walk_blocks,
         operands);
}

}  // namespace fulgur::cuda

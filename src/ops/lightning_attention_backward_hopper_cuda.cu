// Lightning attention's gradients for Hopper's tensor cores (ops/cuda/lightning_hopper_backward.cuh): kernel and
// launch.
#include "device/launch.cuh"
#include "ops/cuda/attention_operands.cuh"
#include "ops/cuda/lightning_hopper_backward_load.cuh"
#include "ops/cuda/lightning_hopper_key_value_sweep.cuh"
#include "ops/cuda/lightning_hopper_query_sweep.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace hopper_backward {
namespace {

// At a multiple of 1,024 bytes, and known to be shared memory.
template <class Sweep>
__device__ typename Sweep::Shared& shared_of() {
  unsigned char* const memory = dynamic_shared();
  return *reinterpret_cast<typename Sweep::Shared*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
}

template <class Sweep>
__device__ void prepare(const Operands& p, const Walk& walk) {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  fill<Sweep::kBackward>(shared.powers, p.decay[walk.head], threadIdx.x);
  if (threadIdx.x == 0)
    for (int i = 0; i < Sweep::kStages; ++i) {
      barrier_init(shared_address(&shared.ring.landed[i]), kWarpgroup);
      barrier_init(shared_address(&shared.ring.full[i]), kWarpgroup);
      barrier_init(shared_address(&shared.ring.empty[i]), kMultipliers);
    }
  barriers_are_ready();
  __syncthreads();
}

// The block that a sweep comes to as number n.
template <class Sweep>
__device__ int nth_block(const Walk& walk, int n) {
  return Sweep::kBackward ? walk.blocks - 1 - n : n;
}

template <class Sweep, class Multiplier>
__device__ void multiply(const Operands& p, const Walk& walk) {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  Multiplier multiplier(p, walk, shared);
  Turn<Sweep::kStages> turn;
  for (int n = 0; n < walk.blocks; ++n, turn.next()) {
    barrier_wait(shared_address(&shared.ring.full[turn.stage]), turn.round);
    multiplier.multiply(shared.stage[turn.stage], nth_block<Sweep>(walk, n),
                        shared_address(&shared.ring.empty[turn.stage]));
  }
  multiplier.leave();
}

template <class Sweep>
__device__ void copy(const Operands& p, const Walk& walk) {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  constexpr int kStages = Sweep::kStages;
  const Copier<typename Sweep::Stage> copier(p, walk, int(threadIdx.x) % kWarpgroup);
  Turn<kStages> fetched, stored, landed;
  int next = 0, done = 0;  // blocks to be fetched and to be stored
  const auto store = [&] {
    barrier_wait(shared_address(&shared.ring.empty[stored.stage]), stored.round);
    copier.store(shared.stage[stored.stage], nth_block<Sweep>(walk, done));
    ++done, stored.next();
  };
  const auto fetch = [&] {
    if (next < walk.blocks) {
      if (next >= kStages) store();
      copier.fetch(shared.stage[fetched.stage], nth_block<Sweep>(walk, next));
      ++next, fetched.next();
    }
    commit_copies();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch();
  for (int n = 0; n < walk.blocks; ++n, landed.next()) {
    wait_for_copies<kStages - 2>();
    fence_for_products();
    barrier_arrive(shared_address(&shared.ring.landed[landed.stage]));
    fetch();
  }
  while (done < walk.blocks) store();
}

template <class Sweep>
__device__ void activate(const Walk& walk) {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  const Activator<typename Sweep::Stage> activator(walk, int(threadIdx.x) % kWarpgroup);
  Turn<Sweep::kStages> turn;
  for (int n = 0; n < walk.blocks; ++n, turn.next()) {
    barrier_wait(shared_address(&shared.ring.landed[turn.stage]), turn.round);
    activator.activate(shared.stage[turn.stage], nth_block<Sweep>(walk, n));
    fence_for_products();
    barrier_arrive(shared_address(&shared.ring.full[turn.stage]));
  }
}

// Thread blocks of the first half sweep backward in time, which takes longer, those of the second forward.
__global__ void __launch_bounds__(kThreads, 1) sweep(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  const int64_t walks = gridDim.x / 2;
  const bool backward = blockIdx.x < walks;
  const Walk walk(p, blockIdx.x % walks);
  if (walk.blocks == 0) return;
  if (backward) prepare<KeyValueSweep>(p, walk);
  else prepare<QuerySweep>(p, walk);
  if (threadIdx.x < kMultipliers) {
    registers_up<kMultiplierRegisters>();
    if (!backward) multiply<QuerySweep, QuerySweep::Multiplier>(p, walk);
    else if (threadIdx.x < kWarpgroup) multiply<KeyValueSweep, KeyValueSweep::Multiplier<1>>(p, walk);
    else multiply<KeyValueSweep, KeyValueSweep::Multiplier<2>>(p, walk);
  } else if (threadIdx.x < kMultipliers + kWarpgroup) {
    registers_down<kCopierRegisters>();
    if (backward) copy<KeyValueSweep>(p, walk);
    else copy<QuerySweep>(p, walk);
  } else {
    registers_down<kActivatorRegisters>();
    if (backward) activate<KeyValueSweep>(walk);
    else activate<QuerySweep>(walk);
  }
#endif
}

template <class T>
T* data_of(const Tensor& t) {
  return t ? reinterpret_cast<T*>(t.data) : nullptr;
}

Operands operands_of(const LightningAttentionBackward& op) {
  const Tensor &dqkv = op.dqkv, &qkv = op.qkv, &d_o = op.d_o;
  return {.dqkv = data_of<bf16>(dqkv),
          .d_o = data_of<const bf16>(d_o),
          .qkv = data_of<const bf16>(qkv),
          .decay = data_of<const float>(op.decay),
          .row_begin = data_of<const int32_t>(op.row_begin),
          .positions = data_of<const int64_t>(op.positions),
          .slots = data_of<const int32_t>(op.slots),
          .state = data_of<const float>(op.state),
          .tail = data_of<const bf16>(op.tail),
          .d_state = data_of<float>(op.d_state),
          .d_tail = data_of<float>(op.d_tail),
          .heads = d_o.dim(1),
          .dqkv_row = dqkv.stride[0],
          .dqkv_head = dqkv.stride[1],
          .dqkv_part = dqkv.stride[2],
          .d_o_row = d_o.stride[0],
          .d_o_head = d_o.stride[1],
          .qkv_row = qkv.stride[0],
          .qkv_head = qkv.stride[1],
          .qkv_part = qkv.stride[2],
          .state_slot = op.state.stride[0],
          .state_head = op.state.stride[1],
          .tail_slot = op.tail.stride[0],
          .tail_head = op.tail.stride[1],
          .d_state_slot = op.d_state.stride[0],
          .d_state_head = op.d_state.stride[1],
          .d_tail_slot = op.d_tail.stride[0],
          .d_tail_head = op.d_tail.stride[1]};
}

// Whether a head's rows in a slot lie end to end.
bool is_dense(const Tensor& of_slots) {
  const int last = of_slots.rank - 1;
  bool dense = !of_slots || of_slots.stride[size_t(last) - 1] == kHeadSize;
  if (of_slots && last == 4) dense &= of_slots.stride[2] == kBlock * kHeadSize;
  return dense;
}

}  // namespace
}  // namespace hopper_backward

void lightning_attention_backward_hopper(Stream& stream, const LightningAttentionBackward& op) {
  namespace hopper = hopper_backward;
  expect_vectors(op.d_o, op.qkv, op.dqkv, op.state, op.tail, op.d_state, op.d_tail);
  expect(hopper::is_dense(op.state) && hopper::is_dense(op.tail) && hopper::is_dense(op.d_state) &&
             hopper::is_dense(op.d_tail),
         "a head's state, tail and their gradients lie end to end");
  const size_t bytes = std::max(sizeof(hopper::QuerySweep::Shared), sizeof(hopper::KeyValueSweep::Shared)) + 1024;
  check(cudaFuncSetAttribute(hopper::sweep, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute");
  const int64_t walks = (op.row_begin.dim(0) - 1) * op.d_o.dim(1);
  launch(stream, "lightning_attention_backward",
         {dim3(unsigned(2 * walks)), dim3(hopper::kThreads), bytes}, hopper::sweep,
         hopper::operands_of(op));
}

}  // namespace fulgur::cuda

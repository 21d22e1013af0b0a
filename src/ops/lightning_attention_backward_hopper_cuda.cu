// Lightning attention's gradients for Hopper's tensor cores (ops/cuda/lightning_hopper_backward.cuh): kernel and
// launch.
#include <algorithm>
#include <optional>

#include "device/launch.cuh"
#include "ops/cuda/attention_operands.cuh"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/lightning_hopper_key_value_sweep.cuh"
#include "ops/cuda/lightning_hopper_query_sweep.cuh"
#include "ops/cuda/lightning_hopper_segments.cuh"
#include "ops/cuda/lightning_kernels.h"
#include "ops/cuda/scratch.cuh"

namespace fulgur::cuda {
namespace hopper_backward {
namespace {

static_assert(kSegment * kBlock == LightningAttention::kSegment);

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
  if (threadIdx.x == 0) {
    shared.walk = walk;
    for (int i = 0; i < Sweep::kStages; ++i) {
      barrier_init(shared_address(&shared.ring.landed[i]), kWarpgroup);
      barrier_init(shared_address(&shared.ring.full[i]), kWarpgroup);
      barrier_init(shared_address(&shared.ring.empty[i]), kMultipliers);
    }
  }
  barriers_are_ready();
  __syncthreads();
}

// The block that a sweep comes to as number n.
template <class Sweep>
__device__ int nth_block(const Walk& walk, int n) {
  return Sweep::kBackward ? walk.last - 1 - n : walk.first + n;
}

template <class Sweep, class Multiplier>
__device__ void multiply(const Operands& p) {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  const Walk& walk = shared.walk;
  Multiplier multiplier(p, shared);
  Turn<Sweep::kStages> turn;
  for (int n = 0; n < walk.count(); ++n, turn.next()) {
    barrier_wait(shared_address(&shared.ring.full[turn.stage]), turn.round);
    multiplier.multiply(shared.stage[turn.stage], nth_block<Sweep>(walk, n),
                        shared_address(&shared.ring.empty[turn.stage]));
  }
  multiplier.leave();
}

template <class Sweep>
__device__ void copy(const Operands& p) {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  const Walk& walk = shared.walk;
  constexpr int kStages = Sweep::kStages;
  const typename Sweep::Copier copier(p, walk, int(threadIdx.x) % kWarpgroup);
  Turn<kStages> fetched, stored, landed;
  int next = 0, done = 0;  // blocks to be fetched and to be stored
  const auto store = [&] {
    barrier_wait(shared_address(&shared.ring.empty[stored.stage]), stored.round);
    copier.store(shared.stage[stored.stage], nth_block<Sweep>(walk, done));
    ++done, stored.next();
  };
  const auto fetch = [&] {
    if (next < walk.count()) {
      if (next >= kStages) store();
      copier.fetch(shared.stage[fetched.stage], nth_block<Sweep>(walk, next));
      ++next, fetched.next();
    }
    commit_copies();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch();
  for (int n = 0; n < walk.count(); ++n, landed.next()) {
    wait_for_copies<kStages - 2>();
    fence_for_products();
    barrier_arrive(shared_address(&shared.ring.landed[landed.stage]));
    fetch();
  }
  while (done < walk.count()) store();
}

template <class Sweep>
__device__ void activate() {
  typename Sweep::Shared& shared = shared_of<Sweep>();
  const Walk& walk = shared.walk;
  const typename Sweep::Activator activator(walk, int(threadIdx.x) % kWarpgroup);
  Turn<Sweep::kStages> turn;
  for (int n = 0; n < walk.count(); ++n, turn.next()) {
    barrier_wait(shared_address(&shared.ring.landed[turn.stage]), turn.round);
    activator.activate(shared.stage[turn.stage], nth_block<Sweep>(walk, n));
    fence_for_products();
    barrier_arrive(shared_address(&shared.ring.full[turn.stage]));
  }
}

__global__ void __launch_bounds__(kThreads, 1) sweep(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  const Item item(p);
  const Walk walk(p, item.number, item.segment);
  if (walk.count() == 0) return;
  if (item.backward) prepare<KeyValueSweep>(p, walk);
  else prepare<QuerySweep>(p, walk);
  if (threadIdx.x < kMultipliers) {
    registers_up<kMultiplierRegisters>();
    if (!item.backward) multiply<QuerySweep, QuerySweep::Multiplier>(p);
    else if (threadIdx.x < kWarpgroup) multiply<KeyValueSweep, KeyValueSweep::Multiplier<1>>(p);
    else multiply<KeyValueSweep, KeyValueSweep::Multiplier<2>>(p);
  } else if (threadIdx.x < kMultipliers + kWarpgroup) {
    registers_down<kCopierRegisters>();
    if (item.backward) copy<KeyValueSweep>(p);
    else copy<QuerySweep>(p);
  } else {
    registers_down<kActivatorRegisters>();
    if (item.backward) activate<KeyValueSweep>();
    else activate<QuerySweep>();
  }
#endif
}

template <class Sum>
__device__ void sum_segment(const Operands& p, const Walk& walk) {
  prepare<Sum>(p, walk);
  if (threadIdx.x < kMultipliers) multiply<Sum, typename Sum::Multiplier>(p);
  else if (threadIdx.x < kMultipliers + kWarpgroup) copy<Sum>(p);
  else activate<Sum>();
}

__global__ void __launch_bounds__(kThreads, 1) sum_segments(const __grid_constant__ Operands p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
  const Item item(p);
  const Walk walk(p, item.number, item.segment);
  if (walk.count() == 0 || (item.backward ? walk.first == 0 : walk.last == walk.blocks)) return;  // nobody asks
  if (item.backward) sum_segment<SegmentSum<true>>(p, walk);
  else sum_segment<SegmentSum<false>>(p, walk);
#endif
}

constexpr int kScanThreads = 256, kScanBlocks = kHeadSize * kHeadSize / 4 / kScanThreads;  // of a walk's S or dS
__global__ void __launch_bounds__(kScanThreads) start_segments(const __grid_constant__ Operands p) {
  const int64_t sum = blockIdx.x / kScanBlocks;
  add_up_segments(p, sum % p.walks, sum < p.walks, int(blockIdx.x % kScanBlocks * kScanThreads + threadIdx.x) * 4);
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
          .states = data_of<const float>(op.starts),
          .starts = nullptr,
          .heads = d_o.dim(1),
          .walks = (op.row_begin.dim(0) - 1) * d_o.dim(1),
          .segments = 1,
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

// Segments of the longest walk, which is divided where the heads are too few for the GPU. Sequences beside one another
// decide nothing: of one that is no longer than a segment, the first alone has blocks.
int64_t segments_of(const LightningAttentionBackward& op) {
  constexpr int64_t kRows = kSegment * kBlock;
  const int64_t held = op.slots ? kBlock - 1 : 0;  // rows that the tail may hold
  return op.in_order || op.d_o.dim(1) > 32 ? 1 : std::max<int64_t>(1, (op.longest + held + kRows - 1) / kRows);
}

// `ways`: 1, backward in time alone, or 2.
template <class Shared>
void launch_walks(Stream& stream, const char* name, void (*kernel)(Operands), const Operands& operands, int64_t ways,
                  unsigned cluster = 1) {
  const size_t bytes = sizeof(Shared) + 1024;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  launch(stream, name, {dim3(unsigned(ways * operands.walks * operands.segments)), dim3(kThreads), bytes, cluster},
         kernel, operands);
}

}  // namespace
}  // namespace hopper_backward

void lightning_attention_backward_hopper(Stream& stream, const LightningAttentionBackward& op) {
  namespace hopper = hopper_backward;
  expect_vectors(op.d_o, op.qkv, op.dqkv, op.state, op.tail, op.d_state, op.d_tail);
  expect(hopper::is_dense(op.state) && hopper::is_dense(op.tail) && hopper::is_dense(op.d_state) &&
             hopper::is_dense(op.d_tail),
         "a head's state, tail and their gradients lie end to end");
  expect(!op.starts || op.starts.dense(), "starts lie end to end");
  hopper::Operands operands = hopper::operands_of(op);
  std::optional<Scratch> starts;
  operands.segments = hopper::segments_of(op);
  if (operands.segments > 1) {
    const int64_t ways = op.starts ? 1 : 2, sums = ways * operands.segments + (op.slots ? 1 : 0);
    starts.emplace(stream, size_t(operands.walks * sums) * hopper::kHeadSize * hopper::kHeadSize * sizeof(float));
    operands.starts = starts->as<float>();
    hopper::launch_walks<hopper::SegmentSum<true>::Shared>(stream, "lightning_attention_backward: segments",
                                                           hopper::sum_segments, operands, ways);
    launch(stream, "lightning_attention_backward: starts",
           {dim3(unsigned(ways * operands.walks * hopper::kScanBlocks)), dim3(hopper::kScanThreads)},
           hopper::start_segments, operands);
  }
  using Shared = std::conditional_t<(sizeof(hopper::QuerySweep::Shared) > sizeof(hopper::KeyValueSweep::Shared)),
                                    hopper::QuerySweep::Shared, hopper::KeyValueSweep::Shared>;
  // Neighbours on the GPU should be heads that are neighbours in memory, on their way in the same direction: a cluster
  // of two sees to it. Where there is more work than processors, nobody should wait for a neighbour to be free.
  const bool at_once = 2 * operands.walks * operands.segments <= processors();
  hopper::launch_walks<Shared>(stream, "lightning_attention_backward", hopper::sweep, operands, 2, at_once ? 2 : 1);
}

}  // namespace fulgur::cuda

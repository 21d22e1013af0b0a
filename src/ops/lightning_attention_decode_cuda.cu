// Lightning attention of one row a sequence on Hopper (ops/cuda/lightning_decode.cuh): its kernel and its launch.
#include "ops/cuda/attention_operands.cuh"
#include "ops/cuda/lightning_decode_rows.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace hopper {
namespace {

__global__ void __launch_bounds__(kDecodeThreads, 2) decode(const __grid_constant__ DecodeOperands p) {
  let_next_begin();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // as the kernel whose bits it gives
  const int sequence = int(blockIdx.y), head = int(blockIdx.x);
  const int64_t row = p.row_begin ? p.row_begin[sequence] : sequence;
  if (p.row_begin && p.row_begin[sequence + 1] == row) return await_previous();
  DecodeShared& shared = *reinterpret_cast<DecodeShared*>(dynamic_shared());
  const DecodeRow at(p, sequence, head, row);
  const auto meet = [] { __syncthreads(); };
  if (threadIdx.x == 0) {
    for (uint64_t& there : shared.there) barrier_init(shared_address(&there), 1);
    barriers_are_ready();
  }
  meet();
  if (threadIdx.x < 32 * kStateWarps) {
    StateReader(p, shared, at).run(meet);
    if (p.squares) meet();
  } else {
    const RowReader rows(p, shared, at);
    rows.run(meet);
    if (!p.squares) return;
    meet();
    rows.store_squares();
  }
#endif
}

}  // namespace
}  // namespace hopper

bool is_decode_for_hopper(const LightningAttention& op) {
  return op.longest == 1 && op.slots && op.row_begin.dim(0) <= 65536 && is_for_hopper(op.o.dim(2));  // rows of a grid
}

void lightning_attention_decode(Stream& stream, const LightningAttention& op) {
  expect_vectors(op.o, op.qkv, op.state, op.tail);
  const Tensor &state = op.state, &tail = op.tail;
  expect(state.stride[2] == hopper::kHeadSize && tail.stride[3] == hopper::kHeadSize &&
             tail.stride[2] == kGrid * hopper::kHeadSize,
         "a head's state and tail lie end to end");
  const int64_t sequences = op.row_begin.dim(0) - 1;
  const hopper::DecodeOperands operands{
      .slots = op.slots.elements<int32_t>(),
      .positions = op.positions.elements<int64_t>(),
      .state = reinterpret_cast<float*>(state.data),
      .tail = reinterpret_cast<bf16*>(tail.data),
      .state_slot = state.stride[0],
      .state_head = state.stride[1],
      .tail_slot = tail.stride[0],
      .tail_head = tail.stride[1],
      .row_begin = op.o.dim(0) == sequences ? nullptr : op.row_begin.elements<int32_t>(),
      .qkv = reinterpret_cast<const bf16*>(op.qkv.data),
      .decay = op.decay.elements<float>(),
      .o = reinterpret_cast<bf16*>(op.o.data),
      .squares = op.squares ? reinterpret_cast<float*>(op.squares.data) : nullptr,
      .qkv_row = op.qkv.stride[0],
      .qkv_head = op.qkv.stride[1],
      .qkv_part = op.qkv.stride[2],
      .o_row = op.o.stride[0],
      .o_head = op.o.stride[1],
      .squares_head = op.squares.stride[0]};
  const size_t bytes = sizeof(hopper::DecodeShared);
  check(cudaFuncSetAttribute(hopper::decode, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute");
  launch(stream, "lightning_attention",
         {.blocks = dim3(unsigned(op.o.dim(1)), unsigned(sequences)),
          .threads = dim3(hopper::kDecodeThreads),
          .shared_bytes = bytes,
          .follows = true},
         hopper::decode, operands);
}

}  // namespace fulgur::cuda

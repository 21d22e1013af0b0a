// Lightning attention of one row a sequence on Hopper (ops/cuda/lightning_decode.cuh): its kernel and its launch.
#include "ops/cuda/lightning_decode.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace hopper {
namespace {

__global__ void __launch_bounds__(kDecodeThreads, 3) decode(const __grid_constant__ DecodeOperands p) {
  const int sequence = int(blockIdx.y), head = int(blockIdx.x);
  const int64_t row = p.one_each ? sequence : p.in.row_begin(sequence);
  if (!p.one_each && p.in.row_begin(sequence + 1) == row) return;
  Decode(p, *reinterpret_cast<DecodeShared*>(dynamic_shared()), sequence, head, row).run();
}

}  // namespace
}  // namespace hopper

bool is_decode_for_hopper(const LightningAttention& op) {
  return op.longest == 1 && op.slots && op.row_begin.dim(0) <= 65536 && is_for_hopper(op);  // rows of a grid
}

void lightning_attention_decode(Stream& stream, const LightningAttention& op) {
  expect_vectors(op.o, op.qkv, op.state, op.tail);
  const Tensor &state = op.state, &tail = op.tail;
  expect(state.stride[2] == hopper::kHeadSize && tail.stride[3] == hopper::kHeadSize &&
             tail.stride[2] == kGrid * hopper::kHeadSize,
         "a head's state and tail lie end to end");
  const int64_t sequences = op.row_begin.dim(0) - 1;
  const hopper::DecodeOperands operands{lightning_inputs<bf16>(op), view_of<bf16, 3>(op.o),
                                        view_of<float, 2>(op.squares), op.o.dim(0) == sequences};
  const size_t bytes = sizeof(hopper::DecodeShared);
  check(cudaFuncSetAttribute(hopper::decode, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute");
  launch(stream, "lightning_attention",
         {dim3(unsigned(op.o.dim(1)), unsigned(sequences)), dim3(hopper::kDecodeThreads), bytes}, hopper::decode,
         operands);
}

}  // namespace fulgur::cuda

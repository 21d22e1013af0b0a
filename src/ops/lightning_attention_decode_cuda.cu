// Lightning attention of one row a sequence on Hopper (ops/cuda/lightning_decode.cuh): its kernel and its launch.
#include "ops/cuda/lightning_decode_rows.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace hopper {
namespace {

template <int kAhead, int kPerProcessor>
__global__ void __launch_bounds__(kDecodeThreads, kPerProcessor) decode(const __grid_constant__ DecodeOperands p) {
  const int sequence = int(blockIdx.y), head = int(blockIdx.x);
  const int64_t row = p.one_each ? sequence : p.in.row_begin(sequence);
  if (!p.one_each && p.in.row_begin(sequence + 1) == row) return;
  DecodeShared& shared = *reinterpret_cast<DecodeShared*>(dynamic_shared());
  const auto meet = [] { __syncthreads(); };
  if (threadIdx.x < 32 * kStateWarps) {
    StateReader<kAhead>(p, shared, sequence, head, row).run(meet);
    if (p.squares.data) meet();
  } else {
    const RowReader rows(p, shared, sequence, head, row);
    rows.run(meet);
    if (!p.squares.data) return;
    meet();
    rows.store_squares();
  }
}

template <int kAhead, int kPerProcessor>
void launch_decode(Stream& stream, const DecodeOperands& operands) {
  constexpr size_t kBytes = sizeof(DecodeShared);
  check(cudaFuncSetAttribute(decode<kAhead, kPerProcessor>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kBytes)),
        "cudaFuncSetAttribute");
  const unsigned heads = unsigned(operands.o.shape[1]), sequences = unsigned(operands.in.row_begin.shape[0] - 1);
  launch(stream, "lightning_attention", {dim3(heads, sequences), dim3(kDecodeThreads), kBytes},
         decode<kAhead, kPerProcessor>, operands);
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
  const hopper::DecodeOperands operands{lightning_inputs<bf16>(op), view_of<bf16, 3>(op.o),
                                        view_of<float, 2>(op.squares), op.o.dim(0) == op.row_begin.dim(0) - 1};
  hopper::launch_decode<8, 2>(stream, operands);
}

}  // namespace fulgur::cuda

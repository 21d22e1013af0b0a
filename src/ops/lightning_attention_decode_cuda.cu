// Lightning attention of one row a sequence on Hopper (ops/cuda/lightning_decode.cuh): its kernel and its launch.
#include "ops/cuda/lightning_decode.cuh"
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace hopper {
namespace {

template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps, 12 / kWarps) decode(const __grid_constant__ DecodeOperands p) {
  using Shared = DecodeShared<kWarps>;
  constexpr int kSides = kHeadSize / Shared::kColumns;
  const int64_t heads = p.o.shape[1], sequence = blockIdx.x / kSides / heads, head = blockIdx.x / kSides % heads;
  const int64_t row = p.one_each ? sequence : p.in.row_begin(sequence);
  if (!p.one_each && p.in.row_begin(sequence + 1) == row) return;
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  Decode<kWarps>(p, shared, sequence, head, int(blockIdx.x % kSides), row).run();
}

template <int kWarps>
void launch_decode(Stream& stream, const DecodeOperands& operands, int64_t items) {
  using Shared = DecodeShared<kWarps>;
  const unsigned sides = kHeadSize / Shared::kColumns;
  check(cudaFuncSetAttribute(decode<kWarps>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(sizeof(Shared))),
        "cudaFuncSetAttribute");
  launch(stream, "lightning_attention", {dim3(unsigned(items * sides)), dim3(32 * kWarps), sizeof(Shared), sides},
         decode<kWarps>, operands);
}

}  // namespace
}  // namespace hopper

bool is_decode_for_hopper(const LightningAttention& op) { return op.longest == 1 && op.slots && is_for_hopper(op); }

void lightning_attention_decode(Stream& stream, const LightningAttention& op) {
  expect_vectors(op.o, op.qkv, op.state, op.tail);
  const int64_t sequences = op.row_begin.dim(0) - 1, heads = op.o.dim(1);
  const hopper::DecodeOperands operands{lightning_inputs<bf16>(op), view_of<bf16, 3>(op.o),
                                        view_of<float, 2>(op.squares), op.o.dim(0) == sequences};
  expect(op.tail.stride[3] == hopper::kHeadSize, "rows of the tail lie end to end");
  hopper::launch_decode<4>(stream, operands, sequences * heads);
}

}  // namespace fulgur::cuda

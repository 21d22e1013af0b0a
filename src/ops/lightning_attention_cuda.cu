// Which kernel computes lightning attention: decided by element type, head size and GPU, never by the batch, so that a
// row has the same bits in any company. What the batch may decide changes no bit: how columns are shared out, and that
// a call of single rows has a kernel of its own.
#include "ops/cuda/lightning_kernels.h"

namespace fulgur::cuda {
namespace {

template <class Operands>
using Kernel = void (*)(Stream&, const Operands&);

template <class Operands>
void run(Stream& stream, const Operands& op, const char* name, Kernel<Operands> f32, Kernel<Operands> bf16) {
  const DType type = op.qkv.dtype;
  expect_kernel(name, type, op.qkv.dim(3));
  if (op.qkv.count() == 0) return;
  (type == DType::f32 ? f32 : bf16)(stream, op);
}

}  // namespace

void lightning_attention(Stream& stream, const LightningAttention& op) {
  const bool hopper = op.qkv.dtype == DType::bf16 && is_for_hopper(op.o.dim(2));
  const auto bf16 = !hopper                    ? lightning_attention_bf16
                    : is_decode_for_hopper(op) ? lightning_attention_decode
                                               : lightning_attention_hopper;
  run(stream, op, "lightning_attention", lightning_attention_f32, bf16);
}

void lightning_attention_backward(Stream& stream, const LightningAttentionBackward& op) {
  const bool hopper = op.qkv.dtype == DType::bf16 && is_for_hopper(op.d_o.dim(2));
  run(stream, op, "lightning_attention_backward", lightning_attention_backward_f32,
      hopper ? lightning_attention_backward_hopper : lightning_attention_backward_bf16);
}

}  // namespace fulgur::cuda

// Softmax attention's kernels by element type, as ops/softmax_attention_cuda.cu picks them. Each takes heads of at most
// kLargestHead columns, a multiple of 8.
#pragma once
#include "ops/cuda/attention_heads.h"
#include "ops/softmax_attention.h"

namespace fulgur::cuda {

void softmax_attention_f32(Stream& stream, const SoftmaxAttention& op);
void softmax_attention_bf16(Stream& stream, const SoftmaxAttention& op);
// Of heads for which Hopper has kernels of its own, on such a GPU.
bool has_softmax_hopper(const Tensor& q);
void softmax_attention_hopper(Stream& stream, const SoftmaxAttention& op);
void softmax_attention_backward_hopper(Stream& stream, const SoftmaxAttentionBackward& op);
// Of one row a sequence whose keys need not be summed in order, where is_decode_in_pieces says so.
bool is_decode_in_pieces(const SoftmaxAttention& op);
void softmax_attention_decode(Stream& stream, const SoftmaxAttention& op);
void softmax_attention_backward_f32(Stream& stream, const SoftmaxAttentionBackward& op);
void softmax_attention_backward_bf16(Stream& stream, const SoftmaxAttentionBackward& op);

}  // namespace fulgur::cuda

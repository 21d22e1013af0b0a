// Lightning attention's kernels by element type, as ops/lightning_attention_cuda.cu picks them. Each takes heads of at
// most kLargestHead columns, a multiple of 8.
#pragma once
#include "ops/cuda/attention_heads.h"
#include "ops/lightning_attention.h"

namespace fulgur::cuda {

void lightning_attention_f32(Stream& stream, const LightningAttention& op);
void lightning_attention_bf16(Stream& stream, const LightningAttention& op);
// For bf16 heads of 128 columns on Hopper; the others are told by is_for_hopper to go elsewhere.
bool is_for_hopper(int64_t head_dim);
void lightning_attention_hopper(Stream& stream, const LightningAttention& op);
// The same bits where every sequence brings one row at most and is remembered.
bool is_decode_for_hopper(const LightningAttention& op);
void lightning_attention_decode(Stream& stream, const LightningAttention& op);
void lightning_attention_backward_hopper(Stream& stream, const LightningAttentionBackward& op);
void lightning_attention_backward_f32(Stream& stream, const LightningAttentionBackward& op);
void lightning_attention_backward_bf16(Stream& stream, const LightningAttentionBackward& op);

}  // namespace fulgur::cuda

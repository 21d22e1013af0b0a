// Softmax attention, causal, 8 heads on 2 KV heads of 128: whole sequences forward and backward, and decode on pages.
#include <algorithm>

#include "bench/cuda/lines.h"
#include "bench/cuda/samples.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kHeads = 8, kKvHeads = 2, kHeadSize = 128;

// Multiplications and additions of a product of every row with the keys that it sees.
double product_flops(int64_t rows) { return double(rows) * double(rows + 1) * double(kHeads * kHeadSize); }

// q, k and v are slices of one row, as the layer's product leaves them.
SoftmaxAttention operands(Draw& draw, int64_t rows) {
  const Layout layout = lay_out({rows}, {0});
  const Tensor qkv = draw.normal(DType::bf16, {rows, kHeads + 2 * kKvHeads, kHeadSize});
  return {.o = draw.empty(DType::bf16, {rows, kHeads, kHeadSize}),
          .q = qkv.slice(1, 0, kHeads),
          .k = qkv.slice(1, kHeads, kHeads + kKvHeads),
          .v = qkv.slice(1, kHeads + kKvHeads, kHeads + 2 * kKvHeads),
          .row_begin = draw.values(layout.row_begin),
          .positions = draw.values(layout.positions),
          .longest = rows,
          .log_sum_exp = draw.empty(DType::f32, {kHeads, rows})};
}

Call forward(Draw& draw, int64_t rows) {
  const SoftmaxAttention op = operands(draw, rows);
  Call call = call_of(softmax_attention, op);
  call.flops = 2 * product_flops(rows);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

// The forward pass that backward needs runs once, while the operands are drawn.
Call backward(Draw& draw, int64_t rows) {
  const SoftmaxAttention f = operands(draw, rows);
  if (f.o.data) softmax_attention(draw.stream(), f);
  const Tensor dqkv = draw.empty(DType::bf16, {rows, kHeads + 2 * kKvHeads, kHeadSize});
  const SoftmaxAttentionBackward op{.dq = dqkv.slice(1, 0, kHeads),
                                    .dk = dqkv.slice(1, kHeads, kHeads + kKvHeads),
                                    .dv = dqkv.slice(1, kHeads + kKvHeads, kHeads + 2 * kKvHeads),
                                    .d_o = draw.normal(DType::bf16, {rows, kHeads, kHeadSize}),
                                    .q = f.q,
                                    .k = f.k,
                                    .v = f.v,
                                    .o = f.o,
                                    .log_sum_exp = f.log_sum_exp,
                                    .row_begin = f.row_begin,
                                    .positions = f.positions,
                                    .longest = rows};
  Call call = call_of(softmax_attention_backward, op);
  call.tensors.push_back({dqkv, false, true});
  call.flops = 5 * product_flops(rows);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

Call decode(Draw& draw, int64_t sequences, int64_t context, bool in_order) {
  const Layout layout =
      lay_out(std::vector<int64_t>(size_t(sequences), 1), std::vector<int64_t>(size_t(sequences), context - 1));
  const int64_t pages = context / kGrid;
  std::vector<int32_t> table;
  for (int64_t i = 0; i < sequences * pages; ++i)  // every page once, far from its neighbours: 1009 is a prime
    table.push_back(int32_t(i * 1009 % (sequences * pages)));
  SoftmaxAttention op{.o = draw.empty(DType::bf16, {sequences, kHeads, kHeadSize}),
                      .q = draw.normal(DType::bf16, {sequences, kHeads, kHeadSize}),
                      .row_begin = draw.values(layout.row_begin),
                      .positions = draw.values(layout.positions),
                      .longest = 1,
                      .page_table = draw.values(table, {sequences, pages}),
                      .kv_pages = draw.normal(DType::bf16, {sequences * pages, 2, kKvHeads, kGrid, kHeadSize})};
  op.in_order = in_order;
  Call call = call_of(softmax_attention, op);
  call.bytes = double(op.o.bytes() + op.q.bytes() + op.kv_pages.bytes());
  call.flops = 4 * double(sequences * context * kHeads * kHeadSize);
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

}  // namespace

std::vector<Line> softmax_lines() {
  std::vector<Line> lines;
  const int64_t lengths[] = {2048, 4096, 8192, 16384, 65536};
  for (const int64_t rows : lengths)
    lines.push_back({"softmax_attention", std::to_string(rows), [=](Draw& draw) { return forward(draw, rows); }});
  for (const int64_t rows : lengths)
    lines.push_back(
        {"softmax_attention_backward", std::to_string(rows), [=](Draw& draw) { return backward(draw, rows); }});
  for (const int64_t sequences : {1, 8, 64})
    for (const int64_t context : {8192, 65536})
      lines.push_back({"softmax_attention", "decode " + std::to_string(sequences) + " x " + std::to_string(context),
                       [=](Draw& draw) { return decode(draw, sequences, context, false); }});
  lines.push_back(
      {"softmax_attention", "decode 8 x 8192, in order", [](Draw& draw) { return decode(draw, 8, 8192, true); }});
  return lines;
}

}  // namespace fulgur::bench

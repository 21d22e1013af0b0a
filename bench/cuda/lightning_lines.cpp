// Lightning attention: training's and prefill's shapes, and decode with positions spread over the grid.
#include <algorithm>

#include "bench/cuda/lines.h"
#include "bench/cuda/samples.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kHeadSize = 128;

struct Shape {
  int64_t sequences, rows, heads;
  std::string text() const {
    return std::to_string(sequences) + " x " + std::to_string(rows) + " x " + std::to_string(heads);
  }
  Layout layout() const {
    return lay_out(std::vector<int64_t>(size_t(sequences), rows), std::vector<int64_t>(size_t(sequences), 0));
  }
};

// exp(-slope) is what a state keeps at every token: layer 40 of 80 for 64 heads, 8 of 16 for 8 (spec/model.md 2.1).
std::vector<float> slopes(int64_t heads) {
  const double layer = heads == 64 ? 40 : 8, layers = heads == 64 ? 80 : 16;
  std::vector<float> all;
  for (int64_t head = 0; head < heads; ++head)
    all.push_back(float(std::exp2(-8.0 * double(head + 1) / double(heads)) * (1 - layer / (layers - 1) + 1e-5)));
  return all;
}

std::vector<int32_t> ascending(int64_t count) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(int32_t(i));
  return all;
}

double flops_of(const Products& products) { return Work{.products = products}.flops(); }

LightningAttention operands(Draw& draw, const Shape& shape, const Layout& layout) {
  return {.o = draw.empty(DType::bf16, {layout.rows, shape.heads, kHeadSize}),
          .qkv = draw.normal(DType::bf16, {layout.rows, shape.heads, 3, kHeadSize}),
          .decay = draw.values(slopes(shape.heads)),
          .row_begin = draw.values(layout.row_begin),
          .positions = draw.values(layout.positions),
          .longest = layout.longest};
}

Call forward(Draw& draw, const Shape& shape, bool remembers, bool in_order) {
  LightningAttention op = operands(draw, shape, shape.layout());
  op.in_order = in_order;
  double left_behind = 0;  // bytes: sequences of whole blocks leave their states and nothing of their tails
  if (remembers) {
    op.slots = draw.values(ascending(shape.sequences));
    op.state = draw.zeros(DType::f32, {shape.sequences, shape.heads, kHeadSize, kHeadSize});
    op.tail = draw.normal(DType::bf16, {shape.sequences, shape.heads, 2, kGrid, kHeadSize});
    left_behind = double(op.state.bytes());
  }
  Call call = call_of(lightning_attention, op);
  call.bytes = double(op.o.bytes() + op.qkv.bytes()) + left_behind;
  call.flops = flops_of(op.products());
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

// Cut sequences find the states that forward found.
Call backward(Draw& draw, const Shape& shape, bool in_order) {
  LightningAttention forward = operands(draw, shape, shape.layout());
  if (!in_order) {
    const int64_t starts = LightningAttention::start_count(forward.o.dim(0));
    forward.starts = draw.zeros(DType::f32, {starts, shape.heads, kHeadSize, kHeadSize});
    forward.in_order = false;
    if (forward.starts.data) lightning_attention(draw.stream(), forward);
  }
  const LightningAttentionBackward op{.dqkv = draw.empty(DType::bf16, {forward.qkv.dim(0), shape.heads, 3, kHeadSize}),
                                      .d_o = draw.normal(DType::bf16, {forward.qkv.dim(0), shape.heads, kHeadSize}),
                                      .qkv = forward.qkv,
                                      .decay = forward.decay,
                                      .row_begin = forward.row_begin,
                                      .positions = forward.positions,
                                      .longest = forward.longest,
                                      .in_order = in_order,
                                      .starts = forward.starts};
  Call call = call_of(lightning_attention_backward, op);
  call.bytes = double(op.dqkv.bytes() + op.d_o.bytes() + op.qkv.bytes());
  call.flops = flops_of(op.products());
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

// One row of each sequence; how far each is into its block of the grid is spread evenly.
Call decode(Draw& draw, int64_t sequences, int64_t heads) {
  std::vector<int64_t> starts;
  for (int64_t s = 0; s < sequences; ++s)
    starts.push_back(kGrid * 10 + (sequences < kGrid ? (2 * s + 1) * kGrid / (2 * sequences) : s % kGrid));
  const Layout layout = lay_out(std::vector<int64_t>(size_t(sequences), 1), starts);
  LightningAttention op = operands(draw, {sequences, 1, heads}, layout);
  op.slots = draw.values(ascending(sequences));
  op.state = draw.normal(DType::f32, {sequences, heads, kHeadSize, kHeadSize}, 5);
  op.tail = draw.normal(DType::bf16, {sequences, heads, 2, kGrid, kHeadSize});
  Call call = call_of(lightning_attention, op);
  // The state once, k and v of the block's rows, the new row; where it ends a block, the state's new value.
  const double state = double(op.state.bytes()), row = double(op.tail.bytes()) / double(kGrid);
  call.bytes = double(op.o.bytes() + op.qkv.bytes()) + state + row;
  for (const int64_t start : starts) {
    call.bytes += row / double(sequences) * double(start % kGrid);
    if (start % kGrid == kGrid - 1) call.bytes += state / double(sequences);
  }
  call.error = [op](Stream& stream) { return error_of(stream, op); };
  return call;
}

}  // namespace

std::vector<Line> lightning_lines() {
  std::vector<Line> lines;
  const Shape shapes[] = {{1, 8192, 64}, {1, 32768, 64}, {1, 131072, 8}, {1, 1048576, 8}, {16, 2048, 64}};
  // Both ways where they differ: few heads, long sequences.
  const auto both = [](const Shape& shape, const auto& push) {
    if (shape.heads == 8) push(false, "");
    push(true, shape.heads == 8 ? ", in order" : "");
  };
  for (const Shape& shape : shapes)
    both(shape, [&](bool in_order, const char* how) {
      const bool packed = shape.sequences > 1;
      lines.push_back({"lightning_attention", shape.text() + (packed ? ", states out" : how),
                       [=](Draw& draw) { return forward(draw, shape, packed, in_order); }});
    });
  lines.push_back({"lightning_attention", Shape{1, 1048576, 8}.text() + ", states out", [](Draw& draw) {
                     return forward(draw, {1, 1048576, 8}, true, false);
                   }});
  for (const Shape& shape : shapes)
    both(shape, [&](bool in_order, const char* how) {
      lines.push_back({"lightning_attention_backward", shape.text() + how,
                       [=](Draw& draw) { return backward(draw, shape, in_order); }});
    });
  for (const int64_t sequences : {1, 8, 64, 256})
    lines.push_back({"lightning_attention", "decode " + std::to_string(sequences) + " x 64",
                     [=](Draw& draw) { return decode(draw, sequences, 64); }});
  return lines;
}

}  // namespace fulgur::bench

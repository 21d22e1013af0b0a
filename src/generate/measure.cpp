// How much scratch the largest step takes: the model's own code, run on tensors without memory.
#include <algorithm>

#include "device/transfer.h"
#include "generate/draw_tokens.h"
#include "model/model.h"

namespace fulgur {
namespace {

// A batch of the largest step, all shapes and no bytes.
struct LargestBatch {
  Batch batch;
  std::vector<Tensor> state, tail, kv_pages, experts, weights;

  LargestBatch(Arena& scratch, const ModelConfig& c, DType type, const EngineOptions& o) {
    const int64_t rows = std::max<int64_t>(std::min(o.limits.rows, o.tokens), 1), sequences = o.sequences;
    const int64_t pages = (o.tokens + kGrid - 1) / kGrid + 1, k = c.experts_per_token;
    batch.tokens = scratch.alloc(DType::i32, {rows}), batch.positions = scratch.alloc(DType::i64, {rows});
    batch.row_begin = scratch.alloc(DType::i32, {sequences + 1}), batch.slots = scratch.alloc(DType::i32, {sequences});
    batch.head_rows = scratch.alloc(DType::i32, {o.traces ? rows : std::min(sequences * (1 + o.guesses), rows)});
    batch.page_table = scratch.alloc(DType::i32, {sequences, pages}), batch.longest = rows;
    Arena pool = Arena::measuring(scratch.device());
    for (const AttentionKind kind : c.attention) {
      const bool lightning = kind == AttentionKind::lightning;
      state.push_back(lightning ? pool.alloc(wide(type), {sequences, c.heads, c.head_dim, c.head_dim}) : Tensor{});
      tail.push_back(lightning ? pool.alloc(type, {sequences, c.heads, 2, kGrid, c.head_dim}) : Tensor{});
      kv_pages.push_back(lightning ? Tensor{}
                                   : pool.alloc(type, {sequences * pages, 2, c.kv_heads, kGrid, c.head_dim}));
      if (!o.traces) continue;
      experts.push_back(scratch.alloc(DType::i32, {rows, k}));
      weights.push_back(scratch.alloc(wide(type), {rows, k}));
    }
    batch.state = state, batch.tail = tail, batch.kv_pages = kv_pages;
    if (o.traces) batch.routing = Batch::Routing::recorded, batch.experts = experts, batch.weights = weights;
  }
};

}  // namespace

size_t measured_scratch(const ModelConfig& config, DType type, DeviceId device, const EngineOptions& options) {
  Stream stream = Stream::measuring(device);
  Arena scratch = Arena::measuring(device), tape = Arena::measuring(device);
  Exec exec{stream, scratch, tape, config};
  Tensor flat = contiguous(nullptr, type, device, {flat_elements(config)});
  ModelWeights weights = views_of(config, flat);
  fill_decays(config, weights, contiguous(nullptr, wide(type), device, {config.layers, config.heads}));

  const LargestBatch largest(scratch, config, type, options);
  const Tensor logits = head_logits(exec, weights, forward(exec, weights, largest.batch));
  measure_draw(scratch, logits.dtype, options.sequences * (1 + options.guesses), options.tokens, config.vocab_size);
  return scratch.peak_bytes();
}

std::vector<int32_t> zero_head_rows(const ModelWeights& weights) {
  constexpr int64_t kFirstUnassigned = 200000;
  std::vector<int32_t> ids;
  const Tensor head = weights.head.values;
  if (head.dim(0) <= kFirstUnassigned) return ids;
  Stream stream(head.device);
  const int64_t row_bytes = head.at(0).bytes();
  int64_t id = kFirstUnassigned;
  const auto judge = [&](std::span<const std::byte> rows) {
    for (; !rows.empty(); rows = rows.subspan(size_t(row_bytes)), ++id) {
      const auto row = rows.first(size_t(row_bytes));
      if (std::all_of(row.begin(), row.end(), [](std::byte b) { return b == std::byte{0}; }))
        ids.push_back(int32_t(id));
    }
  };
  for_bytes(stream, head.rows(kFirstUnassigned, head.dim(0)), judge, 1024 * row_bytes);
  return ids;
}

}  // namespace fulgur

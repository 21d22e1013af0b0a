#include "generate/lay_out.h"

#include <algorithm>

#include "device/transfer.h"
#include "generate/guess.h"
#include "model/model.h"

namespace fulgur {
namespace {

int64_t outputs_of(const Share& s) {
  if (s.sequence->trace || s.sequence->next_log_probs) return s.rows;
  return s.drawing_rows();
}

// No guess where a penalty would change with it, none that would end the block, none behind the answer's end.
std::vector<int32_t> guesses_for(const Sequence& s, int64_t left) {
  if (s.guesses == 0 || s.new_tokens == 0 || s.trace || s.next_log_probs) return {};
  if (s.sampling.repetition_penalty != 1 || s.sampling.presence_penalty != 0 || s.sampling.frequency_penalty != 0)
    return {};
  const int64_t room = kGrid - 2 - s.state.position() % kGrid;
  return guess_next(s.tokens, std::min({int64_t(s.guesses), left, room, s.new_tokens - 1}));
}

// Sequences without a trace share the routing of those that have one: their rows are recorded and dropped, or, where
// routing is imposed, have to be traced themselves.
Batch::Routing routing_of(const std::vector<Share>& shares) {
  Batch::Routing routing = Batch::Routing::own;
  for (const Share& s : shares) {
    if (!s.sequence->trace || s.sequence->trace->experts.empty()) continue;
    routing = s.sequence->trace->imposes_routing ? Batch::Routing::imposed : Batch::Routing::recorded;
  }
  for (const Share& s : shares)
    expect(routing != Batch::Routing::imposed || (s.sequence->trace && s.sequence->trace->imposes_routing),
           "routing is imposed on every sequence of a step or on none");
  return routing;
}

void lay_out_routing(Exec& exec, const std::vector<Share>& shares, Layout& layout) {
  Batch& batch = layout.batch;
  batch.routing = routing_of(shares);
  if (batch.routing == Batch::Routing::own) return;
  for (size_t layer = 0; layer < exec.config.attention.size(); ++layer) {
    layout.experts.push_back(exec.scratch.alloc(DType::i32, {batch.rows(), exec.config.experts_per_token}));
    layout.weights.push_back(exec.scratch.alloc(DType::f32, {batch.rows(), exec.config.experts_per_token}));
    if (batch.routing != Batch::Routing::imposed) continue;
    int64_t row = 0;
    for (const Share& s : shares) {
      const int64_t at = s.sequence->state.position();
      copy(exec.stream, layout.experts.back().rows(row, row + s.rows),
           s.sequence->trace->experts[layer].rows(at, at + s.rows));
      copy(exec.stream, layout.weights.back().rows(row, row + s.rows),
           s.sequence->trace->weights[layer].rows(at, at + s.rows));
      row += s.rows;
    }
  }
  batch.experts = layout.experts, batch.weights = layout.weights;
}

}  // namespace

std::vector<Share> choose_rows(std::span<Sequence* const> running, const StepLimits& limits) {
  std::vector<Share> shares;
  shares.reserve(running.size());
  int64_t left = limits.rows;
  for (Sequence* sequence : running) {
    const int64_t rows = std::min({sequence->pending(), limits.chunk, left});
    if (rows <= 0) continue;
    left -= rows;
    shares.push_back({sequence, rows});
    if (sequence->pending() > 1) continue;
    Share& share = shares.back();
    share.guesses = guesses_for(*sequence, left);
    share.rows += int64_t(share.guesses.size()), left -= int64_t(share.guesses.size());
  }
  return shares;
}

void lay_out(Exec& exec, const std::vector<Share>& shares, const StatePool& pool, Layout& layout) {
  std::vector<int32_t> tokens, row_begin{0}, head_rows, slots, page_table;
  std::vector<int64_t> positions;
  size_t pages = 1;
  for (const Share& s : shares) pages = std::max(pages, s.sequence->state.pages().size());
  Batch& batch = layout.batch;
  for (const Share& s : shares) {
    const Sequence& sequence = *s.sequence;
    const int64_t at = sequence.state.position(), end = row_begin.back() + s.rows, outputs = outputs_of(s);
    for (int64_t i = 0; i < s.rows; ++i) positions.push_back(at + i);
    tokens.insert(tokens.end(), sequence.tokens.begin() + at, sequence.tokens.begin() + at + s.known_rows());
    tokens.insert(tokens.end(), s.guesses.begin(), s.guesses.end());
    for (int64_t i = end - outputs; i < end; ++i) head_rows.push_back(int32_t(i));
    layout.outputs.push_back(outputs);
    row_begin.push_back(int32_t(end));
    slots.push_back(sequence.state.slot());
    const std::span<const int32_t> own = sequence.state.pages();
    page_table.insert(page_table.end(), own.begin(), own.end());
    page_table.resize(slots.size() * pages, 0);
    batch.longest = std::max(batch.longest, s.rows);
  }
  Uploads uploads(exec.scratch);
  batch.tokens = uploads.add(tokens), batch.positions = uploads.add(positions);
  batch.row_begin = uploads.add(row_begin), batch.head_rows = uploads.add(head_rows);
  batch.slots = uploads.add(slots);
  batch.page_table = uploads.add(page_table, {int64_t(slots.size()), int64_t(pages)});
  uploads.send(exec.stream);
  batch.state = pool.state(), batch.tail = pool.tail(), batch.kv_pages = pool.kv_pages();
  lay_out_routing(exec, shares, layout);
}

void keep_traces(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor hidden, Tensor logits) {
  int64_t row = 0, output = 0;
  bool kept = false;
  for (size_t i = 0; i < shares.size(); ++i) {
    const Share& s = shares[i];
    const int64_t at = s.sequence->state.position(), end = at + s.rows;
    if (Trace* trace = s.sequence->trace) {
      const auto keep = [&](Tensor& to, Tensor from, int64_t begin) {
        if (to) kept = true, copy(exec.stream, to.rows(at, end), from.rows(begin, begin + s.rows));
      };
      keep(trace->hidden, hidden, output), keep(trace->logits, logits, output);
      if (layout.batch.routing == Batch::Routing::recorded)
        for (size_t layer = 0; layer < trace->experts.size(); ++layer)
          keep(trace->experts[layer], layout.experts[layer], row),
              keep(trace->weights[layer], layout.weights[layer], row);
    }
    row += s.rows, output += layout.outputs[i];
  }
  if (kept) exec.stream.synchronize();
}

}  // namespace fulgur

// One step of generation: choose rows, lay them out, run the model, sample, return the new tokens. Prefill and decode
// are the same step.
#include "generate/engine.h"

#include <algorithm>

#include "device/poison.h"
#include "device/profiler_range.h"
#include "generate/decode_graphs.h"
#include "generate/draw_tokens.h"
#include "model/model.h"

namespace fulgur {

namespace {

// Gives a sequence the drawn token; whether more may follow it.
bool append(Sequence& s, int32_t token) {
  s.tokens.push_back(token);
  --s.new_tokens;
  if (std::find(s.stop_ids.begin(), s.stop_ids.end(), token) != s.stop_ids.end()) s.new_tokens = 0;
  return s.new_tokens > 0;
}

// Moves the sequences on: over their rows and the guesses that were right, with what was drawn behind them.
std::vector<Sampled> accept(const std::vector<Share>& shares, std::vector<Sampled> drawn) {
  std::vector<Sampled> fresh;
  fresh.reserve(drawn.size());
  auto next = drawn.begin();
  for (const Share& share : shares) {
    const int64_t rows = share.drawing_rows(), guesses = int64_t(share.guesses.size());
    share.sequence->state.advance(share.rows);
    if (rows == 0) continue;
    int64_t right = 0;
    for (bool more = true; more; ++right) {
      const int32_t token = next[right].token;
      fresh.push_back(std::move(next[right]));
      more = append(*share.sequence, token) && right < guesses && token == share.guesses[size_t(right)];
    }
    share.sequence->state.undo(guesses - (right - 1));
    next += rows;
  }
  return fresh;
}

}  // namespace

std::vector<Sampled> engine_step(Exec& exec, const ModelWeights& weights, const StatePool& pool,
                                 std::span<Sequence* const> running, const StepLimits& limits, Tensor suppressed,
                                 DecodeGraphs* graphs) {
  const ProfilerRange phase("engine step");
  const std::vector<Share> shares = choose_rows(running, limits);
  if (shares.empty()) return {};
  for (const Share& s : shares) s.sequence->state.reserve(exec.stream, s.rows);

  const Arena::Scope step(exec.scratch);
  Layout layout;
  lay_out(exec, shares, pool, layout);
  const auto [hidden, logits] = run_model(exec, weights, layout.batch, graphs);
  keep_traces(exec, shares, layout, hidden, logits);
  keep_log_probs(exec, shares, layout, logits);
  std::vector<Sampled> drawn = draw_tokens(exec, shares, layout, logits, suppressed);
  if (drawn.empty()) exec.stream.synchronize();  // as drawing does: who calls a step finds it done
  return accept(shares, std::move(drawn));
}

namespace {

StateShape state_shape(const ModelConfig& c, DType type) {
  StateShape shape{.lightning = {}, .heads = c.heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .type = type};
  for (const AttentionKind kind : c.attention) shape.lightning.push_back(kind == AttentionKind::lightning);
  return shape;
}

// A CPU is busy with few rows; a GPU needs many, and they are soon done.
EngineOptions with_limits(EngineOptions options, DeviceId device) {
  const StepLimits usual = device.is_cuda() ? StepLimits{16384, 16384} : StepLimits{4096, 1024};
  if (options.limits.rows == 0) options.limits.rows = usual.rows;
  if (options.limits.chunk == 0) options.limits.chunk = usual.chunk;
  return options;
}

// Each sequence may end inside a page.
int64_t page_count(const EngineOptions& o) { return (o.tokens + kGrid - 1) / kGrid + o.sequences; }

}  // namespace

Engine::Engine(const ModelConfig& config, const ModelWeights& weights, const EngineOptions& options)
    : config_(config),
      weights_(weights),
      options_(with_limits(options, weights.flat.device)),
      stream_(weights.flat.device, options.threads),
      pool_(state_shape(config, weights.flat.dtype), options.sequences, page_count(options), weights.flat.device),
      memory_(measured_scratch(config, weights.flat.dtype, weights.flat.device, options_), Purpose::activations,
              weights.flat.device),
      scratch_(memory_.data(), memory_.bytes(), weights.flat.device),
      tape_(nullptr, 0, weights.flat.device) {
  // What is captured must not wait for the stream, as poisoning does.
  if (options.graphs && weights.flat.device.is_cuda() && !poisons()) graphs_ = std::make_unique<DecodeGraphs>();
  const std::vector<int32_t> suppressed = zero_head_rows(weights);
  if (suppressed.empty()) return;
  suppressed_memory_ = Buffer(suppressed.size() * sizeof(int32_t), Purpose::weights, weights.flat.device);
  suppressed_ = suppressed_memory_.tensor(DType::i32, {int64_t(suppressed.size())});
  send(stream_, suppressed_, suppressed.data());
}

Engine::~Engine() = default;

Sequence Engine::begin(std::vector<int32_t> tokens, uint64_t id) {
  return {.tokens = std::move(tokens), .state = SequenceState(pool_, stream_), .id = id};
}

int64_t Engine::vocab_size() const { return config_.vocab_size; }

std::vector<Sampled> Engine::step(std::span<Sequence* const> running) {
  Exec exec{stream_, scratch_, tape_, config_, options_.in_order};
  return engine_step(exec, weights_, pool_, running, options_.limits, suppressed_, graphs_.get());
}

}  // namespace fulgur

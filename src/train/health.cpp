#include "train/health.h"

#include <cmath>
#include <limits>

#include "base/grid.h"
#include "device/transfer.h"
#include "ops/lightning_attention.h"
#include "ops/linear.h"
#include "ops/magnitude.h"
#include "ops/rms_norm.h"

namespace fulgur {
namespace {

// Rows of the sums: these for each layer, then those of the step.
enum LayerRow : int64_t { kInput, kState, kAttention, kExperts, kRouter, kNorms, kLayerRows };
enum StepRow : int64_t { kLast, kLogits, kEmbedding, kHead, kFinalNorm, kStepRows };

int64_t row_of(int64_t layer, LayerRow row) { return layer * kLayerRows + row; }

// x: [width] or [rows, width].
void add_magnitude(Exec& exec, Tensor sums, Tensor x) {
  magnitude(exec.stream, {.sums = sums, .x = x.rank == 1 ? x.split({1, x.dim(0)}) : x});
}

// The rows of a stack of matrices.
Tensor stacked_rows(Tensor t) { return contiguous(t.data, t.dtype, t.device, {t.dim(0) * t.dim(1), t.dim(2)}); }

}  // namespace

StateProbe longest_sequence(const std::vector<int32_t>& row_begin, int64_t rows) {
  StateProbe longest;
  for (size_t i = 0; i < row_begin.size(); ++i) {
    const int64_t begin = row_begin[i], end = i + 1 < row_begin.size() ? row_begin[i + 1] : rows;
    const int64_t whole = (end - begin) / kGrid * kGrid;
    if (whole > longest.end - longest.begin) longest = {begin, begin + whole};
  }
  return longest;
}

HealthSums::HealthSums(Exec& exec, StateProbe probe)
    : layers_(exec.config.layers),
      probe_(probe),
      sums_(exec.scratch.alloc(DType::f64, {layers_ * kLayerRows + kStepRows, 2})) {
  clear(exec.stream, sums_);
}

Tensor HealthSums::logits() const { return sums_.at(layers_ * kLayerRows + kLogits); }

void HealthSums::add_forward(Exec& exec, const ModelWeights& weights, const Saved& saved) {
  // What backward runs again will need the tape for more than this.
  Arena& arena = saved.keep == Keep::inputs ? exec.tape : exec.scratch;
  const bool probes = !probed_ && probe_.end > probe_.begin;
  probed_ = true;
  for (int64_t i = 0; i < layers_; ++i) {
    const Tensor input = saved.layers[size_t(i)].input;
    add_magnitude(exec, sums_.at(row_of(i, kInput)), input);
    if (probes) add_state(exec, arena, weights.layers[size_t(i)], input, sums_.at(row_of(i, kState)));
  }
  add_magnitude(exec, sums_.at(layers_ * kLayerRows + kLast), saved.last);
}

// Training leaves no state behind, so that of one sequence is computed again, as the layer's forward would.
void HealthSums::add_state(Exec& exec, Arena& arena, const LayerWeights& layer, Tensor layer_input, Tensor sums) {
  const auto* w = std::get_if<LightningWeights>(&layer.attention);
  if (!w) return;
  const Arena::Scope scope(arena);
  const ModelConfig& c = exec.config;
  const Tensor in = layer_input.rows(probe_.begin, probe_.end);
  const int64_t rows = in.dim(0);
  const auto alloc = [&](DType type, std::initializer_list<int64_t> shape) { return arena.alloc(type, shape); };
  const Tensor x = alloc(in.dtype, {rows, c.width}), qkv = alloc(in.dtype, {rows, c.heads, 3, c.head_dim});
  const Tensor attended = alloc(in.dtype, {rows, c.heads, c.head_dim});
  const Tensor state = alloc(wide(in.dtype), {1, c.heads, c.head_dim, c.head_dim});
  const Tensor tail = alloc(in.dtype, {1, c.heads, 2, kGrid, c.head_dim});
  std::vector<int64_t> positions(static_cast<size_t>(rows));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = int64_t(i);
  clear(exec.stream, state), clear(exec.stream, tail);
  rms_norm(exec.stream, {.y = x, .x = in, .weight = layer.attention_norm, .eps = c.norm_eps});
  linear(exec.stream, {.y = qkv.merged(1), .x = x, .w = w->qkv});
  lightning_attention(exec.stream, {.o = attended,
                                    .qkv = qkv,
                                    .decay = w->decay,
                                    .row_begin = upload(exec.stream, arena, std::vector<int32_t>{0, int32_t(rows)}),
                                    .positions = upload(exec.stream, arena, positions),
                                    .longest = rows,
                                    .slots = upload(exec.stream, arena, std::vector<int32_t>{0}),
                                    .state = state,
                                    .tail = tail});
  add_magnitude(exec, sums, stacked_rows(state.at(0)));
}

void HealthSums::add_gradients(Exec& exec, const ModelWeights& gradients) {
  for (int64_t i = 0; i < layers_; ++i) {
    const LayerWeights& layer = gradients.layers[size_t(i)];
    const auto add = [&](LayerRow row, Tensor x) { add_magnitude(exec, sums_.at(row_of(i, row)), x); };
    if (const auto* lightning = std::get_if<LightningWeights>(&layer.attention)) {
      for (const Weight* w : {&lightning->qkv, &lightning->gate, &lightning->out}) add(kAttention, w->values);
      add(kNorms, lightning->norm);
    } else {
      const auto& softmax = std::get<SoftmaxWeights>(layer.attention);
      add(kAttention, softmax.qkv.values), add(kAttention, softmax.out.values);
    }
    for (const Weight* w : {&layer.moe.gate_up, &layer.moe.down}) add(kExperts, stacked_rows(w->values));
    add(kRouter, layer.moe.router);
    add(kNorms, layer.attention_norm), add(kNorms, layer.moe_norm);
  }
  const auto add = [&](StepRow row, Tensor x) { add_magnitude(exec, sums_.at(layers_ * kLayerRows + row), x); };
  add(kEmbedding, gradients.embedding.values), add(kHead, gradients.head.values), add(kFinalNorm, gradients.final_norm);
}

namespace {

// In the order of the computation: forward through the layers, then back.
std::string first_in_order(const std::vector<double>& sums, int64_t layers) {
  const auto bad = [&](int64_t row) { return !std::isfinite(sums[size_t(2 * row)]); };
  const auto of_step = [&](StepRow row) { return bad(layers * kLayerRows + row); };
  if (layers > 0 && bad(row_of(0, kInput))) return "the embedding's rows";
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = "layer " + std::to_string(i);
    if (bad(row_of(i, kState))) return "the lightning state of " + layer;
    if (i + 1 < layers ? bad(row_of(i + 1, kInput)) : of_step(kLast)) return "the rows that leave " + layer;
  }
  if (of_step(kLogits)) return "the logits";
  if (of_step(kHead)) return "the gradient of the head";
  if (of_step(kFinalNorm)) return "the gradient of the final norm";
  constexpr std::pair<LayerRow, const char*> kKinds[] = {
      {kExperts, "experts"}, {kRouter, "router"}, {kAttention, "attention"}, {kNorms, "norms"}};
  for (int64_t i = layers; i-- > 0;)
    for (const auto& [row, name] : kKinds)
      if (bad(row_of(i, row))) return "the gradient of layer " + std::to_string(i) + "'s " + name;
  return of_step(kEmbedding) ? "the gradient of the embedding" : "";
}

}  // namespace

Health health_of(const std::vector<double>& sums, const ModelConfig& config, StateProbe probe, int64_t rows) {
  const int64_t layers = config.layers;
  const auto squares = [&](int64_t row) { return sums[size_t(2 * row)]; };
  const auto over_layers = [&](LayerRow row) {
    double total = 0;
    for (int64_t i = 0; i < layers; ++i) total += squares(row_of(i, row));
    return total;
  };
  const auto of_step = [&](StepRow row) { return squares(layers * kLayerRows + row); };
  const auto rms = [](double squares_sum, int64_t count) { return std::sqrt(squares_sum / double(count)); };
  Health health;
  for (int64_t i = 0; i < layers; ++i) {
    const bool measured = probe.end > probe.begin && config.attention[size_t(i)] == AttentionKind::lightning;
    health.residual_rms.push_back(rms(squares(row_of(i, kInput)), rows * config.width));
    health.state_rms.push_back(measured
                                   ? rms(squares(row_of(i, kState)), config.heads * config.head_dim * config.head_dim)
                                   : std::numeric_limits<double>::quiet_NaN());
  }
  health.residual_rms.push_back(rms(of_step(kLast), rows * config.width));
  health.largest_logit = sums[size_t(2 * (layers * kLayerRows + kLogits) + 1)];
  health.embedding = std::sqrt(of_step(kEmbedding)), health.head = std::sqrt(of_step(kHead));
  health.attention = std::sqrt(over_layers(kAttention)), health.experts = std::sqrt(over_layers(kExperts));
  health.router = std::sqrt(over_layers(kRouter));
  health.norms = std::sqrt(over_layers(kNorms) + of_step(kFinalNorm));
  health.not_finite = first_in_order(sums, layers);
  return health;
}

void add_metrics(std::vector<std::pair<std::string, double>>& metrics, const Health& health) {
  for (size_t i = 0; i < health.residual_rms.size(); ++i)
    metrics.emplace_back("residual_rms_" + std::to_string(i), health.residual_rms[i]);
  for (size_t i = 0; i < health.state_rms.size(); ++i)
    if (!std::isnan(health.state_rms[i])) metrics.emplace_back("state_rms_" + std::to_string(i), health.state_rms[i]);
  metrics.insert(metrics.end(), {{"largest_logit", health.largest_logit},
                                 {"gradient_norm_embedding", health.embedding},
                                 {"gradient_norm_attention", health.attention},
                                 {"gradient_norm_experts", health.experts},
                                 {"gradient_norm_router", health.router},
                                 {"gradient_norm_norms", health.norms},
                                 {"gradient_norm_head", health.head}});
}

std::string first_not_finite(Exec& exec, const ModelWeights& weights) {
  const Arena::Scope scope(exec.scratch);
  const Tensor sums = exec.scratch.alloc(DType::f64, {2});
  clear(exec.stream, sums);
  for (const Parameter& p : weights.parameters) {
    add_magnitude(exec, sums, p.view);
    if (!std::isfinite(download<double>(exec.stream, sums)[0])) return p.checkpoint_name;
  }
  return {};
}

}  // namespace fulgur

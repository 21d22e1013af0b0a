#include "model/config.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace fulgur {
namespace {

[[noreturn]] void refuse(const std::string& what) { fail(ErrorKind::invalid_input, what); }

void judge(const char* key, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most)
    refuse(std::string(key) + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
           std::to_string(most));
}

void judge(const char* key, double value, double least, double most) {
  if (!(value >= least && value <= most)) {
    char text[160];
    std::snprintf(text, sizeof text, "%s is %g, expected %g to %g", key, value, least, most);
    refuse(text);
  }
}

void judge(const char* key, Residual r) {
  judge((std::string(key) + " alpha").c_str(), r.alpha, -1e6, 1e6);
  judge((std::string(key) + " beta").c_str(), r.beta, -1e6, 1e6);
}

// The factors are bounded before, so that no product here overflows an f64 or, once judged, an int64_t.
void judge_size(const ModelConfig& c) {
  constexpr int64_t kMostElements = int64_t(1) << 48, kMostTensors = 1'000'000;
  const double width = double(c.width), inner = double(c.heads * c.head_dim);
  const double layer = 5 * width * inner + double(c.experts) * width * (1 + 3 * double(c.expert_width));
  const double elements = 2 * double(c.vocab_size) * width + double(c.layers) * layer;
  if (elements > double(kMostElements))
    refuse("the model has about " + std::to_string(int64_t(elements / 1e12)) +
           "e12 parameters, expected at most 2.8e14");
  const int64_t tensors = c.layers * (3 * c.experts + 8);
  if (tensors > kMostTensors)
    refuse("num_hidden_layers " + std::to_string(c.layers) + " of num_local_experts " + std::to_string(c.experts) +
           " make " + std::to_string(tensors) + " tensors, expected at most " + std::to_string(kMostTensors));
}

// 2^(-8 (head + 1) / heads), the ALiBi slopes of a power of two.
double plain_slope(int64_t heads, int64_t head) { return std::exp2(-8.0 * double(head + 1) / double(heads)); }

// Between powers of two the list of the lower one comes first, then every other entry of the upper one's.
double interpolated_slope(int64_t heads, int64_t head) {
  const int64_t lower = int64_t(std::bit_floor(uint64_t(heads)));
  return head < lower ? plain_slope(lower, head) : plain_slope(2 * lower, 2 * (head - lower));
}

}  // namespace

int64_t ModelConfig::lightning_layers() const {
  return std::count(attention.begin(), attention.end(), AttentionKind::lightning);
}

void require_valid(const ModelConfig& c) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  judge("vocab_size", c.vocab_size, 1, kMost);
  judge("hidden_size", c.width, 1, int64_t(1) << 20);
  judge("num_hidden_layers", c.layers, 1, 10'000);
  judge("num_attention_heads", c.heads, 1, 1 << 16);
  judge("num_key_value_heads", c.kv_heads, 1, c.heads);
  judge("head_dim", c.head_dim, 1, 1024);
  judge("rotary_dim", c.rotary_dim, 0, c.head_dim);
  judge("num_local_experts", c.experts, 1, 1 << 16);
  judge("num_experts_per_tok", c.experts_per_token, 1, c.experts);
  judge("intermediate_size", c.expert_width, 1, 1 << 24);
  judge("max_position_embeddings", c.max_positions, 1, int64_t(1) << 40);
  if (c.heads % c.kv_heads != 0)
    refuse("num_attention_heads " + std::to_string(c.heads) + " is no multiple of num_key_value_heads " +
           std::to_string(c.kv_heads));
  if (c.rotary_dim % 2 != 0) refuse("rotary_dim is " + std::to_string(c.rotary_dim) + ", expected an even number");
  if (int64_t(c.attention.size()) != c.layers)
    refuse("the list of attention kinds has " + std::to_string(c.attention.size()) +
           " entries, expected one for each of " + std::to_string(c.layers) + " layers");
  judge("rms_norm_eps", c.norm_eps, 1e-30, 1e6);
  judge("lightning_norm_eps", c.lightning_norm_eps, 1e-30, 1e6);
  judge("rope_theta", c.rope_theta, 1e-6, 1e30);
  judge("lightning residual", c.lightning_residual);
  judge("softmax residual", c.softmax_residual);
  judge("mlp residual", c.moe_residual);
  for (const int64_t id : c.eos_token_ids) judge("eos_token_id", id, 0, c.vocab_size - 1);
  if (c.bos_token_id) judge("bos_token_id", *c.bos_token_id, 0, c.vocab_size - 1);
  judge_size(c);
}

RotaryRows rotary_rows(const ModelConfig& c) {
  return c.proportional_rotary ? RotaryRows{c.head_dim, c.rotary_dim} : RotaryRows{};
}

double decay_of(const ModelConfig& c, int64_t layer, int64_t head) {
  const bool released = c.family == Family::minimax_text_01;
  const double base = released ? interpolated_slope(c.heads, head) : plain_slope(c.heads, head);
  const double last = double(c.layers - 1) + (released ? 0 : 1e-5);
  const double depth = c.layers == 1 ? 0 : double(layer) / last;
  return base * (1 - depth + 1e-5);
}

}  // namespace fulgur

#include "model/config_family.h"

#include <cfloat>
#include <cmath>
#include <nlohmann/json.hpp>

#include "files/json_file.h"
#include "model/decay_buffers.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

// Holds the text that a converted configuration came from.
constexpr const char* kOriginal = "fulgur_original_config";

[[noreturn]] void cannot_say(Family to, const std::string& what) {
  fail(ErrorKind::unsupported,
       std::string("--format ") + (to == Family::minimax ? "minimax" : "minimax_text_01") + ": " + what);
}

void require_released_says(const ModelConfig& c) {
  if (c.family == Family::minimax && (c.heads & (c.heads - 1)) != 0)
    cannot_say(Family::minimax_text_01, "num_attention_heads is " + std::to_string(c.heads) +
                                            ", no power of two: that family's decays would be others");
}

void require_library_says(const ModelConfig& c) {
  const auto cannot_say = [](const std::string& what) { fulgur::cannot_say(Family::minimax, what); };
  if (!c.post_norm) cannot_say("postnorm is false, and that family is always post-norm");
  if (c.lightning_norm_eps != 1e-6) cannot_say("the lightning norm's epsilon is not 1e-6, and that family's is");
  const RotaryRows order{c.head_dim, c.rotary_dim};
  if (c.rotary_dim != c.head_dim && c.head_dim % 2 != 0)
    cannot_say("rotary_dim is " + std::to_string(c.rotary_dim) + " of a head of " + std::to_string(c.head_dim) +
               ", and that family's partial rotary takes heads of an even size");
  // Its class computes frequencies in f32.
  if (const double theta = to_file_theta(order, c.rope_theta); !(theta <= FLT_MAX && theta >= FLT_MIN))
    cannot_say("rope_theta is " + Json(c.rope_theta).dump() + " and rotary_dim " + std::to_string(c.rotary_dim) +
               " of a head of " + std::to_string(c.head_dim) + ": as that family states it, theta would be beyond f32");
}

struct ResidualKeys {
  Residual ModelConfig::*residual;
  const char *released_alpha, *released_beta, *library_alpha, *library_beta;
};
constexpr ResidualKeys kResiduals[] = {
    {&ModelConfig::softmax_residual, "layernorm_full_attention_alpha", "layernorm_full_attention_beta",
     "full_attn_alpha_factor", "full_attn_beta_factor"},
    {&ModelConfig::lightning_residual, "layernorm_linear_attention_alpha", "layernorm_linear_attention_beta",
     "linear_attn_alpha_factor", "linear_attn_beta_factor"},
    {&ModelConfig::moe_residual, "layernorm_mlp_alpha", "layernorm_mlp_beta", "mlp_alpha_factor", "mlp_beta_factor"}};

void set_residuals(Json& out, const ModelConfig& c, bool released) {
  for (const ResidualKeys& keys : kResiduals) {
    const Residual& residual = c.*keys.residual;
    out.erase(released ? keys.library_alpha : keys.released_alpha);
    out.erase(released ? keys.library_beta : keys.released_beta);
    out[released ? keys.released_alpha : keys.library_alpha] = residual.alpha;
    out[released ? keys.released_beta : keys.library_beta] = residual.beta;
  }
}

// What both families call alike, stated in full: their defaults differ.
void set_common(Json& out, const ModelConfig& c) {
  out["num_key_value_heads"] = c.kv_heads, out["head_dim"] = c.head_dim;
  out["rms_norm_eps"] = c.norm_eps, out["rope_theta"] = c.rope_theta, out["rotary_dim"] = c.rotary_dim;
  out["postnorm"] = c.post_norm;
  out["bos_token_id"] = c.bos_token_id ? Json(*c.bos_token_id) : Json();
  if (c.eos_token_ids.size() == 1) out["eos_token_id"] = c.eos_token_ids[0];
  else out["eos_token_id"] = c.eos_token_ids.empty() ? Json() : Json(c.eos_token_ids);
  for (const char* key : {"auto_map", "partial_rotary_factor"}) out.erase(key);
}

// That family reads rope_parameters alone, and there a part of each head is turned by "proportional" only. Keys that
// would say otherwise to other readers are left out.
void set_library_rope(Json& out, const ModelConfig& c) {
  if (c.rotary_dim == c.head_dim) {
    out["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", c.rope_theta}};
    return;
  }
  double factor = double(c.rotary_dim) / double(c.head_dim);
  if (int64_t(factor * double(c.head_dim)) < c.rotary_dim) factor = std::nextafter(factor, 1);
  out["rope_parameters"] = {{"rope_type", "proportional"},
                            {"rope_theta", to_file_theta({c.head_dim, c.rotary_dim}, c.rope_theta)},
                            {"partial_rotary_factor", factor}};
  for (const char* key : {"rope_theta", "rotary_dim"}) out.erase(key);
}

Json as_library(Json out, const ModelConfig& c, std::string_view text) {
  out["model_type"] = "minimax", out["architectures"] = {"MiniMaxForCausalLM"};
  out.erase("attn_type_list");
  out["layer_types"] = Json::array();
  for (const AttentionKind kind : c.attention)
    out["layer_types"].push_back(kind == AttentionKind::lightning ? "linear_attention" : "full_attention");
  out["block_size"] = kDecayBlock;
  if (c.family == Family::minimax_text_01) out[kDecaysKey] = "minimax_text_01";
  set_common(out, c), set_library_rope(out, c), set_residuals(out, c, false);
  out[kOriginal] = text;
  return out;
}

Json as_released(Json out, const ModelConfig& c) {
  out["model_type"] = "minimax_text_01", out["architectures"] = {"MiniMaxText01ForCausalLM"};
  for (const char* key : {"layer_types", "rope_parameters", "block_size", kDecaysKey, kOriginal}) out.erase(key);
  out["attn_type_list"] = Json::array();
  for (const AttentionKind kind : c.attention) out["attn_type_list"].push_back(kind == AttentionKind::softmax ? 1 : 0);
  set_common(out, c), set_residuals(out, c, true);
  return out;
}

bool same_residual(const Residual& a, const Residual& b) { return a.alpha == b.alpha && a.beta == b.beta; }

bool same_model(const ModelConfig& a, const ModelConfig& b) {
  const auto numbers = [](const ModelConfig& c) {
    return std::tuple(c.vocab_size, c.width, c.layers, c.heads, c.kv_heads, c.head_dim, c.rotary_dim, c.experts,
                      c.experts_per_token, c.expert_width, c.norm_eps, c.lightning_norm_eps, c.rope_theta, c.post_norm,
                      c.eos_token_ids, c.bos_token_id, c.max_positions, c.tied_head);
  };
  return numbers(a) == numbers(b) && a.attention == b.attention && a.family == b.family &&
         same_residual(a.lightning_residual, b.lightning_residual) &&
         same_residual(a.softmax_residual, b.softmax_residual) && same_residual(a.moe_residual, b.moe_residual);
}

// The text that this one came from, where it still says the same.
std::string original_of(const Json& object, const ModelConfig& config, Family to) {
  const auto kept = object.find(kOriginal);
  if (kept == object.end() || !kept->is_string()) return {};
  const std::string& text = kept->get_ref<const std::string&>();
  try {
    const ModelConfig before = parse_config(text, kOriginal);
    return words_of(before) == to && same_model(before, config) ? text : std::string();
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

std::string config_in_family(std::string_view text, const ModelConfig& config, Family to) {
  if (words_of(config) == to) return std::string(text);
  Json object = parse_object(text, "config.json");
  if (std::string original = original_of(object, config, to); !original.empty()) return original;
  if (to == Family::minimax) require_library_says(config);
  else require_released_says(config);
  const Json out =
      to == Family::minimax ? as_library(std::move(object), config, text) : as_released(std::move(object), config);
  return out.dump(2) + "\n";
}

Family words_of(const ModelConfig& config) {
  return config.model_type == "minimax" ? Family::minimax : Family::minimax_text_01;
}

}  // namespace fulgur

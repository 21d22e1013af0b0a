// config.json in the words of both families, judged value by value (spec/model.md 1, 6).
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "files/json_file.h"
#include "model/config.h"
#include "model/decay_buffers.h"
#include "model/quantisation.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

// The object's values by key; null counts as absent.
struct Reader {
  const Json& object;

  const Json* find(const char* key) const {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] static void refuse(const std::string& key, const Json& value, const std::string& expected) {
    fail(ErrorKind::invalid_input, key + " is " + in_quotes(value.dump(-1, ' ', true)) + ", expected " + expected);
  }
  static int64_t whole_of(const std::string& key, const Json& value) {
    const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
    if (!fits) refuse(key, value, "a whole number");
    return value.get<int64_t>();
  }
  int64_t whole(const char* key, int64_t absent) const {
    const Json* value = find(key);
    return value ? whole_of(key, *value) : absent;
  }
  double real(const char* key, double absent) const {
    const Json* value = find(key);
    if (value && !value->is_number()) refuse(key, *value, "a number");
    return value ? value->get<double>() : absent;
  }
  bool truth(const char* key, bool absent) const {
    const Json* value = find(key);
    if (value && !value->is_boolean()) refuse(key, *value, "true or false");
    return value ? value->get<bool>() : absent;
  }
  std::string text(const char* key, const std::string& absent) const {
    const Json* value = find(key);
    if (value && !value->is_string()) refuse(key, *value, "a text");
    return value ? value->get<std::string>() : absent;
  }
  const Json* list(const char* key) const {
    const Json* value = find(key);
    if (value && !value->is_array()) refuse(key, *value, "a list");
    return value;
  }
};

Family family_of(const char* key, const std::string& name) {
  if (name == "minimax_text_01" || name == "minimax_m1") return Family::minimax_text_01;
  if (name == "minimax") return Family::minimax;
  fail(ErrorKind::unsupported,
       std::string(key) + " is " + in_quotes(name) + ", expected minimax_text_01, minimax_m1 or minimax");
}

AttentionKind kind_of(const char* key, const Json& value) {
  if (value == 0 || value == "linear_attention") return AttentionKind::lightning;
  if (value == 1 || value == "full_attention") return AttentionKind::softmax;
  Reader::refuse(key, value, "0 or \"linear_attention\", 1 or \"full_attention\"");
}

std::vector<AttentionKind> attention_of(const Reader& in, const ModelConfig& c) {
  std::vector<AttentionKind> kinds;
  for (const char* key : {"layer_types", "attn_type_list"}) {
    const Json* list = in.list(key);
    if (!list) continue;
    for (const Json& value : *list) kinds.push_back(kind_of(key, value));
    return kinds;
  }
  if (c.family == Family::minimax_text_01)
    fail(ErrorKind::invalid_input, "attn_type_list is missing, expected a list of 0 and 1, one for each layer");
  for (int64_t l = 0; l < c.layers && l < 10'000; ++l)
    kinds.push_back(l % 2 ? AttentionKind::lightning : AttentionKind::softmax);
  return kinds;
}

void read_residuals(const Reader& in, ModelConfig& c) {
  const bool released = c.family == Family::minimax_text_01;
  const auto residual = [&](const char* alpha, const char* beta) {
    return Residual{in.real(alpha, 1), in.real(beta, 1)};
  };
  c.softmax_residual = released ? residual("layernorm_full_attention_alpha", "layernorm_full_attention_beta")
                                : residual("full_attn_alpha_factor", "full_attn_beta_factor");
  c.lightning_residual = released ? residual("layernorm_linear_attention_alpha", "layernorm_linear_attention_beta")
                                  : residual("linear_attn_alpha_factor", "linear_attn_beta_factor");
  c.moe_residual = released ? residual("layernorm_mlp_alpha", "layernorm_mlp_beta")
                            : residual("mlp_alpha_factor", "mlp_beta_factor");
}

// The part of a head that is rotated, where it is stated as a factor.
std::optional<int64_t> part_of(const Reader& in, const Reader& rope, const ModelConfig& c) {
  const Reader& holder = rope.find("partial_rotary_factor") ? rope : in;
  if (!holder.find("partial_rotary_factor")) return {};
  const double factor = holder.real("partial_rotary_factor", 1);
  if (!(factor >= 0 && factor <= 1)) Reader::refuse("partial_rotary_factor", factor, "a number from 0 to 1");
  return int64_t(double(c.head_dim) * factor);
}

// How much of a head is rotated: what the user says, else the file, else the family's rule.
int64_t rotary_of(const Reader& in, const Reader& rope, const ModelConfig& c, std::optional<int64_t> said) {
  if (said) return *said;
  const std::optional<int64_t> part = part_of(in, rope, c);
  if (in.find("rotary_dim")) {
    const int64_t dim = in.whole("rotary_dim", 0);
    if (part && dim != *part)
      fail(ErrorKind::invalid_input, "rotary_dim is " + std::to_string(dim) + ", but partial_rotary_factor makes it " +
                                         std::to_string(*part) + "; expected one of them, or both to agree");
    return dim;
  }
  const bool release = c.width == 6144 && c.heads == 64 && c.head_dim == 128;
  if (c.family == Family::minimax && release && !part)
    fail(ErrorKind::invalid_input,
         "neither rotary_dim nor partial_rotary_factor is stated for the released model's shape: give --rotary-dim 64 "
         "or 128 (64: as it was trained, 128: as transformers computes it)");
  return part.value_or(c.head_dim);
}

// As transformers' class computes it, in our terms. It says itself how much of a head is rotated, so nothing else may
// say otherwise.
void read_proportional_rope(const Reader& in, const Reader& rope, ModelConfig& c, std::optional<int64_t> said) {
  if (rope.real("factor", 1) != 1) Reader::refuse("rope_parameters.factor", rope.real("factor", 1), "1 or no such key");
  if (c.head_dim % 2 != 0)
    fail(ErrorKind::unsupported, "head_dim is " + std::to_string(c.head_dim) + ", expected an even number");
  c.proportional_rotary = true;
  c.rotary_dim = part_of(in, rope, c).value_or(c.head_dim) / 2 * 2;
  const auto agree = [&](const char* name, int64_t dim) {
    if (dim != c.rotary_dim)
      fail(ErrorKind::invalid_input, std::string(name) + " is " + std::to_string(dim) +
                                         ", but rope_parameters make it " + std::to_string(c.rotary_dim));
  };
  if (said.value_or(0) != 0) agree("--rotary-dim", *said);
  if (in.find("rotary_dim")) agree("rotary_dim", in.whole("rotary_dim", 0));
  c.rope_theta = from_file_theta(rotary_rows(c), rope.real("rope_theta", in.real("rope_theta", 1e6)));
}

void read_rope(const Reader& in, ModelConfig& c, std::optional<int64_t> rotary_dim) {
  const Json nothing = Json::object();
  const Json* stated = in.find("rope_parameters");
  if (stated && !stated->is_object()) Reader::refuse("rope_parameters", *stated, "an object");
  const Reader rope{stated ? *stated : nothing};
  const std::string type = rope.text("rope_type", "default");
  if (type == "proportional" && c.family == Family::minimax) return read_proportional_rope(in, rope, c, rotary_dim);
  if (type != "default")
    fail(ErrorKind::unsupported,
         "rope_type is " + in_quotes(type) + ", expected \"default\" or, in a minimax configuration, \"proportional\"");
  c.rope_theta = rope.real("rope_theta", in.real("rope_theta", 1e6));
  c.rotary_dim = rotary_of(in, rope, c, rotary_dim);
}

void read_tokens(const Reader& in, ModelConfig& c) {
  constexpr int64_t kReleasedEnd = 200020;
  const bool library = c.family == Family::minimax;  // its class has the defaults 1 and 2, but null means none
  const Json* eos = in.find("eos_token_id");
  if (eos && eos->is_array())
    for (const Json& id : *eos) c.eos_token_ids.push_back(Reader::whole_of("eos_token_id", id));
  else if (eos) c.eos_token_ids.push_back(Reader::whole_of("eos_token_id", *eos));
  else if (library && !in.object.contains("eos_token_id") && c.vocab_size > 2) c.eos_token_ids.push_back(2);
  else if (c.vocab_size > kReleasedEnd) c.eos_token_ids.push_back(kReleasedEnd);

  if (in.find("bos_token_id")) c.bos_token_id = in.whole("bos_token_id", 0);
  else if (library && !in.object.contains("bos_token_id") && c.vocab_size > 1) c.bos_token_id = 1;
}

std::optional<DType> stated_type_of(const Reader& in) {
  const char* key = in.find("dtype") ? "dtype" : "torch_dtype";
  std::string name = in.text(key, "auto");
  if (name.starts_with("torch.")) name = name.substr(6);
  if (name == "bfloat16") return DType::bf16;
  if (name == "float32" || name == "float") return DType::f32;
  if (name == "float16" || name == "half") return DType::f16;
  if (name == "float64" || name == "double") return DType::f64;
  if (name != "auto") Reader::refuse(key, name, "bfloat16, float32, float16, float64 or auto");
  return {};
}

// Keys that would change what is computed, with the only value that is computed here.
void refuse_what_is_not_computed(const Reader& in) {
  const auto only = [&](const char* key, const Json& supported) {
    const Json* value = in.find(key);
    if (value && *value != supported)
      fail(ErrorKind::unsupported,
           std::string(key) + " is " + in_quotes(value->dump(-1, ' ', true)) + ", expected " + supported.dump());
  };
  only("hidden_act", "silu");
  only("sliding_window", nullptr);
  only("rope_scaling", nullptr);
  only("attention_bias", false);
  if (const Json* shared = in.find("shared_intermediate_size"))
    if (*shared != 0 && *shared != Json::array({0}) && *shared != Json::array())
      fail(ErrorKind::unsupported, "shared_intermediate_size is " + in_quotes(shared->dump(-1, ' ', true)) +
                                       ", expected 0 or [0]: shared experts are not computed");
}

void read_shape(const Reader& in, ModelConfig& c) {
  c.vocab_size = in.whole("vocab_size", 32000);
  c.width = in.whole("hidden_size", 4096);
  c.layers = in.whole("num_hidden_layers", 32);
  c.heads = in.whole("num_attention_heads", 32);
  c.kv_heads = in.whole("num_key_value_heads", in.object.contains("num_key_value_heads") ? c.heads : 8);
  c.expert_width = in.whole("intermediate_size", 14336);
  c.experts = in.whole("num_local_experts", in.whole("num_experts", 8));
  c.experts_per_token = in.whole("num_experts_per_tok", 2);
  c.max_positions = in.whole("max_position_embeddings", 131072);
  if (!in.find("head_dim") && (c.heads < 1 || c.width % c.heads != 0))
    fail(ErrorKind::invalid_input, "head_dim is missing and hidden_size " + std::to_string(c.width) +
                                       " is no multiple of num_attention_heads " + std::to_string(c.heads));
  c.head_dim = in.find("head_dim") ? in.whole("head_dim", 0) : c.width / c.heads;
}

ModelConfig config_of(const Reader& in, std::optional<int64_t> rotary_dim) {
  ModelConfig c;
  if (!in.find("model_type"))
    fail(ErrorKind::invalid_input, "model_type is missing, expected minimax_text_01, minimax_m1 or minimax");
  c.model_type = in.text("model_type", "");
  c.family = family_of("model_type", c.model_type);
  read_shape(in, c);
  c.norm_eps = in.real("rms_norm_eps", 1e-5);
  c.lightning_norm_eps = in.real("lightning_norm_eps", in.real("linear_norm_eps", 1e-6));
  read_rope(in, c, rotary_dim);
  read_residuals(in, c);
  c.tied_head = in.truth("tie_word_embeddings", false);
  c.post_norm = in.truth("postnorm", c.family == Family::minimax);
  if (c.family == Family::minimax && !c.post_norm)
    fail(ErrorKind::invalid_input,
         "postnorm is false, expected true or no such key: models of type minimax are post-norm");
  c.attention = attention_of(in, c);
  read_tokens(in, c);
  c.stated_type = stated_type_of(in);
  refuse_what_is_not_computed(in);
  c.int8_experts = judged_int8_experts(in.find("quantization_config"));
  if (c.family == Family::minimax) c.family = family_of(kDecaysKey, in.text(kDecaysKey, "minimax"));
  require_valid(c);
  return c;
}

}  // namespace

ModelConfig parse_config(std::string_view text, const std::string& origin, std::optional<int64_t> rotary_dim) {
  const Json object = parse_object(text, origin);
  try {
    return config_of({object}, rotary_dim);
  } catch (const Error& error) {
    fail(error.kind(), origin + ": " + error.what());
  }
}

ModelConfig read_config(const std::filesystem::path& path, std::optional<int64_t> rotary_dim) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  const std::filesystem::path file = folder ? path / "config.json" : path;
  return parse_config(read_text(file), file.string(), rotary_dim);
}

}  // namespace fulgur

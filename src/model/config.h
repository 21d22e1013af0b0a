// ModelConfig: the numbers of config.json that shape the network, under our own names.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "model/rotary_rows.h"

namespace fulgur {

enum class AttentionKind : uint8_t { lightning, softmax };
// Whose rules hold where the two families of checkpoints differ: the slopes, and what an absent key means.
enum class Family : uint8_t { minimax_text_01, minimax };

struct Residual {  // alpha * what is carried + beta * the branch
  double alpha = 1, beta = 1;
};

struct ModelConfig {
  Family family = Family::minimax_text_01;
  std::string model_type;  // as the file states it
  int64_t vocab_size = 0, width = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0, rotary_dim = 0;
  int64_t experts = 0, experts_per_token = 0, expert_width = 0;
  double norm_eps = 1e-5, lightning_norm_eps = 1e-6, rope_theta = 0;
  bool proportional_rotary = false;  // files hold q and k for transformers' proportional rotary (model/rotary_rows.h)
  Residual lightning_residual, softmax_residual, moe_residual;
  bool post_norm = false;  // the residual carries the normalised input, as published; false: the input itself
  std::vector<AttentionKind> attention;  // one per layer
  bool tied_head = false;                // lm_head is the embedding, and files have no lm_head.weight
  bool int8_experts = false;             // quantization_config: i8, with a scale for each row and kScaleColumns columns
  int64_t max_positions = 0;
  std::vector<int64_t> eos_token_ids;  // none stated: 200020 where vocab_size exceeds it, else empty
  std::optional<int64_t> bos_token_id;
  std::optional<DType> stated_type;  // dtype or torch_dtype: what the weights are said to be stored in

  int64_t lightning_layers() const;
  int64_t softmax_layers() const { return layers - lightning_layers(); }
};

// config.json as text. origin: what messages call it. rotary_dim: what the user says instead of the file. The result is
// valid. Throws corrupt_file where the text is no JSON object, invalid_input naming key, value and what was expected,
// unsupported for an unknown model_type.
ModelConfig parse_config(std::string_view text, const std::string& origin, std::optional<int64_t> rotary_dim = {});

// path: config.json, or the folder that holds it. Throws not_found too.
ModelConfig read_config(const std::filesystem::path& path, std::optional<int64_t> rotary_dim = {});

// Throws invalid_input for any number that a file can get wrong. No operator sees a shape before this has judged it, so
// a check() that fails later is our own bug.
void require_valid(const ModelConfig& config);

// How files of this model order the rows of q and k.
RotaryRows rotary_rows(const ModelConfig& config);

// The slope s of a lightning head: the state is multiplied by exp(-s) at every token (spec/model.md 2.1, 6).
double decay_of(const ModelConfig& config, int64_t layer, int64_t head);

}  // namespace fulgur

// ModelWeights: views into one flat buffer. Gradients, master weights and moments are flat buffers with the same
// offsets, so the optimizer, the gradient norm, a shard and a checkpoint never ask what a layer is made of.
#pragma once
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "model/config.h"
#include "model/rotary_rows.h"
#include "ops/weight.h"

namespace fulgur {

struct LightningWeights {
  Weight in;     // [heads * 4 * head_dim, width]: both that read the layer's input, one below the other
  Weight qkv;    // [heads * 3 * head_dim, width]: q, k, v of head 0, then of head 1
  Weight gate;   // [heads * head_dim, width]
  Weight out;    // [width, heads * head_dim]
  Tensor norm;   // [heads * head_dim]
  Tensor decay;  // wide [heads]; computed by fill_decays, not part of the flat buffer
};

struct SoftmaxWeights {
  Weight qkv;  // [(heads + 2 * kv_heads) * head_dim, width]: q, then k, then v
  Weight out;  // [width, heads * head_dim]
};

struct MoeWeights {
  Tensor router;   // [experts, width]
  Weight gate_up;  // [experts, 2 * expert_width, width]: both that read an expert's input, one below the other
  Weight gate;     // [experts, expert_width, width], w1 of the file
  Weight up;       // [experts, expert_width, width], w3
  Weight down;     // [experts, width, expert_width], w2
};

struct LayerWeights {
  Tensor attention_norm, moe_norm;  // [width]
  std::variant<LightningWeights, SoftmaxWeights> attention;
  MoeWeights moe;
};

// Decides weight decay.
enum class ParameterKind : uint8_t { embedding, matrix, router, norm, head, scale };

// A tensor of the checkpoint file and where it lies: a field, or a part of one (an expert of a stack, q of qkv).
struct Parameter {
  std::string checkpoint_name;
  Tensor view;
  ParameterKind kind;
  int64_t offset;        // elements from the start of the flat buffer, or of its own where experts are quantised
  RotaryRows rows = {};  // how the file orders them, of q and k
};

// The experts of a model that has them in int8, instead of their part of the flat buffer.
struct QuantisedExperts {
  Tensor values, scales;  // i8 [elements], f32 [elements]
};

struct ModelWeights {
  Tensor flat;  // [elements]: first what every data rank holds, from experts_begin on what expert ranks divide
  int64_t experts_begin = 0;  // the two ranges have different replicas, so each is reduced and sharded by itself
  QuantisedExperts quantised;
  Weight embedding, head;  // [vocab, width]; one matrix where the head is tied
  Tensor final_norm;       // [width]
  std::vector<LayerWeights> layers;
  std::vector<Parameter> parameters;  // every tensor of the file once, layer by layer
};

inline constexpr int64_t kParameterAlign = 256;  // elements: 256 bytes or more in every element type

int64_t flat_elements(const ModelConfig& config);
struct QuantisedElements {
  int64_t values, scales;
};
QuantisedElements quantised_elements(const ModelConfig& config);  // none where it has no int8 experts

// flat.data may be null: names, shapes and offsets only. Gaps between fields are never read. quantised: of int8
// experts, where flat has data.
ModelWeights views_of(const ModelConfig& config, Tensor flat, QuantisedExperts quantised = {});

// Points every lightning layer's decay at its row of storage, wide [layers, heads], and writes the slopes there unless
// storage has no bytes. Slopes are computed in f64 and rounded once.
void fill_decays(const ModelConfig& config, ModelWeights& weights, Tensor storage);

// Elements [begin, end) that weight decay leaves alone: norms, embedding, routers. Ascending, merged where only a gap
// between fields lies between.
std::vector<std::pair<int64_t, int64_t>> not_decayed_ranges(const ModelWeights& weights);

// Elements of the file's matrices and norms: all of them, and those that one token's forward reads.
struct ParameterCount {
  int64_t total = 0, active = 0;
};
ParameterCount parameter_count(const ModelConfig& config);

}  // namespace fulgur

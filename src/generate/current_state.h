// The lightning state at a sequence's own position: what is stored at the last multiple of 64, decayed, plus the rows
// of the tail (spec/model.md 8.9). For inspection; no step reads it.
#pragma once
#include <vector>

#include "generate/engine.h"

namespace fulgur {

// [heads, head_dim, head_dim], rows k, columns v. layer: a lightning layer; f32 or bf16 pools, between
// two steps.
std::vector<double> current_state(const ModelConfig& config, const ModelWeights& weights, const StatePool& pool,
                                  const SequenceState& state, int64_t layer);

}  // namespace fulgur

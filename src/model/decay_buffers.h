// The decays of lightning layers as transformers' class keeps them beside the weights. It computes them by a rule of
// its own where a checkpoint lacks them, so those that are written make it compute this very model.
#pragma once
#include <string_view>
#include <vector>

#include "files/safetensors.h"
#include "model/config.h"

namespace fulgur {

inline constexpr int64_t kDecayBlock = 256;  // tokens that the class takes at a time: block_size of its configuration

// In a configuration of that family: whose rule the written decays follow. Absent: its own.
inline constexpr const char* kDecaysKey = "fulgur_decays";

// Four tensors f32 for each lightning layer: slope_rate [heads, 1, 1], query_decay and key_decay [heads, block, 1],
// diagonal_decay [1, heads, block, block].
std::vector<TensorToWrite> decay_buffers(const ModelConfig& config);

// Whether a tensor of a checkpoint is one of them, and no weight.
bool is_decay_buffer(std::string_view tensor);

}  // namespace fulgur

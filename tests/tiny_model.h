// A small hybrid with seeded weights for tests: four layers, one of them softmax, wide enough to cross the grid.
#pragma once
#include <cstring>
#include <vector>

#include "device/buffer.h"
#include "model/config.h"
#include "model/initialise.h"
#include "model/weights.h"
#include "tests/test_device.h"

namespace fulgur::tests {

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 97, c.width = 32, c.layers = 4, c.heads = 3, c.kv_heads = 1, c.head_dim = 16, c.rotary_dim = 8;
  c.experts = 5, c.experts_per_token = 2, c.expert_width = 24;
  c.norm_eps = 1e-5, c.lightning_norm_eps = 1e-6, c.rope_theta = 1e4;
  c.lightning_residual = {1.7, 1.1}, c.softmax_residual = {1.5, 0.9}, c.moe_residual = {1.6, 0.8};
  c.post_norm = true;
  c.attention = {AttentionKind::lightning, AttentionKind::softmax, AttentionKind::lightning, AttentionKind::lightning};
  return c;
}

inline ModelConfig tied_config() {
  ModelConfig c = tiny_config();
  c.tied_head = true;
  return c;
}

struct TinyModel {
  ModelConfig config;
  Buffer memory, decay_memory;
  ModelWeights weights;

  TinyModel(ModelConfig c, DType type, uint64_t seed)
      : config(std::move(c)),
        memory(size_t(flat_elements(config) * byte_size(type)), Purpose::weights, test_device()),
        decay_memory(size_t(config.layers * config.heads * byte_size(wide(type))), Purpose::weights, test_device()) {
    weights = views_of(config, memory.tensor(type, {flat_elements(config)}));
    fill_decays(config, weights, decay_memory.tensor(wide(type), {config.layers, config.heads}));
    Threads threads(1);
    initialise(config, weights, seed, threads);
  }
};

}  // namespace fulgur::tests

// Sequence: one text being read or written, and what may be asked of it.
#pragma once
#include <cstdint>
#include <vector>

#include "state/sequence_state.h"

namespace fulgur {

struct Sampling {
  float temperature = 1;  // 0: greedy
  int32_t top_k = 0;      // 0: all
  float top_p = 1;
  float min_p = 0;
  uint64_t seed = 0;
};

// Rows of one sequence, kept for whoever asks: tensors in main memory, one row per token; any of them may be absent.
struct Trace {
  Tensor hidden, logits;                 // run type [tokens, width], wide [tokens, vocab]
  std::vector<Tensor> experts, weights;  // per layer, i32 and wide [tokens, experts_per_token]
  bool imposes_routing = false;          // experts and weights are read instead of written
};

struct Sequence {
  std::vector<int32_t> tokens;  // prompt, then what was generated
  SequenceState state;          // covers tokens[0 .. state.position())
  uint64_t id = 0;              // with sampling.seed and the position: the key of its random numbers
  int64_t new_tokens = 0;       // still to be generated; 0: it is only read
  Sampling sampling = {};
  Trace* trace = nullptr;

  int64_t pending() const { return int64_t(tokens.size()) - state.position(); }
};

}  // namespace fulgur

// Sequence: one text being read or written, and what may be asked of it.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "state/sequence_state.h"

namespace fulgur {

// How tokens are drawn (ops/sample.h, ops/edit_logits.h).
struct Sampling {
  float temperature = 1;  // 0: greedy
  int32_t top_k = 0;      // 0: all
  float typical_p = 1, top_p = 1, min_p = 0;
  float repetition_penalty = 1;                            // divides positive logits of tokens of prompt and answer
  float presence_penalty = 0, frequency_penalty = 0;       // taken from logits of the answer's tokens, once and per use
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // ids, each once, and what is added; at most kMaxBiases
  uint64_t seed = 0;
};
inline constexpr int64_t kMaxBiases = 1024;

// Throws invalid_input naming the field and what was expected.
void require_valid(const Sampling& sampling, int64_t vocab_size);

// Natural logarithms of the model's own probabilities, before temperature, penalties and filters.
struct LogProbs {
  float token;                                 // of the token that was drawn
  std::vector<std::pair<int32_t, float>> top;  // the most likely ones, descending, the lower id first among equals
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
  std::vector<int32_t> stop_ids = {};  // one of these ends the answer: new_tokens becomes 0
  // How many tokens may be guessed in a step from what was written before (generate/guess.h); they are kept where they
  // are what would have been drawn, so the answer is the same. Not used with penalties, which depend on every token.
  int32_t guesses = 0;
  int64_t answer_begin = 0;  // tokens from here on were generated: what presence and frequency count
  int32_t log_probs = -1;    // how many of the most likely tokens to report; -1: no logarithms at all
  // Where given: log p(tokens[i + 1] | tokens[0 .. i]) of every row i that is read and has a next token is appended.
  std::vector<float>* next_log_probs = nullptr;
  Trace* trace = nullptr;

  int64_t pending() const { return int64_t(tokens.size()) - state.position(); }
};

}  // namespace fulgur

// From sequences to a Batch and back: which rows a step takes, where they lie, what is sampled and kept.
#pragma once
#include <vector>

#include "generate/engine.h"
#include "model/batch.h"

namespace fulgur {

// A sequence's rows in this step: more than one is a piece of prompt, one is the next token, and guesses of what comes
// after it.
struct Share {
  Sequence* sequence;
  int64_t rows;                       // the guessed ones included
  std::vector<int32_t> guesses = {};  // behind the sequence's last token
  int64_t known_rows() const { return rows - int64_t(guesses.size()); }
  bool reaches_end() const { return sequence->pending() == known_rows(); }
  bool wants_token() const { return reaches_end() && sequence->new_tokens > 0; }
  int64_t drawing_rows() const { return wants_token() ? 1 + int64_t(guesses.size()) : 0; }  // the last ones
};

// Guesses stay inside a block of 64, so that they can be undone.
std::vector<Share> choose_rows(std::span<Sequence* const> running, const StepLimits& limits);

struct Layout {
  Batch batch;
  std::vector<Tensor> experts, weights;  // what batch.experts and batch.weights look at
  std::vector<int64_t> outputs;          // per share: how many of its rows are head rows, the last ones
};
// In scratch. Traced sequences get every row's hidden vector, others the last row's where a token is wanted.
void lay_out(Exec& exec, const std::vector<Share>& shares, const StatePool& pool, Layout& layout);

// Copies what the traces ask for to main memory. Before the states advance.
void keep_traces(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor hidden, Tensor logits);

// Bytes of scratch that the largest step takes: the step's own code in a measuring run.
size_t measured_scratch(const ModelConfig& config, DType type, DeviceId device, const EngineOptions& options);

}  // namespace fulgur

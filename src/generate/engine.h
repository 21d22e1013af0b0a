// Engine: many sequences, one model. The caller steps it and gets tokens back; it calls nobody.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "device/arena.h"
#include "generate/sequence.h"

namespace fulgur {

class DecodeGraphs;
struct Exec;
struct ModelConfig;
struct ModelWeights;

// What one step may take on. 0: as many as suit the device.
struct StepLimits {
  int64_t rows = 0;   // of all sequences together
  int64_t chunk = 0;  // of one sequence
};

struct Sampled {
  Sequence* sequence;
  int32_t token;
  std::optional<LogProbs> log_probs = {};  // where the sequence asks for them
};

// One forward over the pending rows of the running sequences, in their order, within the limits. Tokens are sampled
// where a sequence reached its end and wants more; they are appended to it and returned, several of one sequence where
// guesses were right. Empty when nothing is pending.
// A suppressed id (i32 [ids], may be absent) is never drawn. graphs: of earlier steps, for those that are alike; null:
// every step is given to the stream call by call. Changes no bit.
std::vector<Sampled> engine_step(Exec& exec, const ModelWeights& weights, const StatePool& pool,
                                 std::span<Sequence* const> running, const StepLimits& limits, Tensor suppressed,
                                 DecodeGraphs* graphs = nullptr);

struct EngineOptions {
  int64_t sequences = 1;  // alive at once
  int64_t tokens = 0;     // of all sequences together, prompt and answer
  int32_t guesses = 0;    // a sequence may ask for, a step
  bool traces = false;    // some step records or imposes routing, or wants every row's logits or probabilities
  int threads = 1;
  bool in_order = true;  // Exec::in_order
  bool graphs = true;    // on a GPU: a step of one row a sequence is one launch
  StepLimits limits = {};
};

// The stream, arena and pool that engine_step needs, sized by a measuring run of the largest step.
class Engine {
 public:
  // Throws out_of_memory before any work, with the bytes asked and free.
  Engine(const ModelConfig& config, const ModelWeights& weights, const EngineOptions& options);
  ~Engine();

  Sequence begin(std::vector<int32_t> tokens, uint64_t id = 0);
  std::vector<Sampled> step(std::span<Sequence* const> running);

  Stream& stream() { return stream_; }
  const StatePool& pool() const { return pool_; }
  StatePool& pool() { return pool_; }
  const StepLimits& limits() const { return options_.limits; }
  int32_t guesses() const { return options_.guesses; }
  int64_t vocab_size() const;
  size_t peak_activation_bytes() const { return scratch_.peak_bytes(); }

 private:
  const ModelConfig& config_;
  const ModelWeights& weights_;
  EngineOptions options_;
  Stream stream_;
  StatePool pool_;
  Buffer memory_;
  Arena scratch_, tape_;
  Buffer suppressed_memory_;
  Tensor suppressed_;
  std::unique_ptr<DecodeGraphs> graphs_;
};

// Rows of the head that are all zero, at ids the published vocabulary leaves unassigned: their logit is exactly 0 and
// could win (spec/model.md 4).
std::vector<int32_t> zero_head_rows(const ModelWeights& weights);

}  // namespace fulgur

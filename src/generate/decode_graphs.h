// DecodeGraphs: what a step of one row a sequence gives a GPU, captured once and launched as a whole for every later
// step of the same shapes: the host's part in some hundred calls becomes one.
#pragma once
#include <tuple>

#include "device/graph_cache.h"
#include "model/model.h"

namespace fulgur {

struct ModelOutput {
  Tensor hidden, logits;  // as forward and head_logits return them, in scratch
};

class DecodeGraphs {
 public:
  // Of a batch with longest == 1 that keeps no routing.
  ModelOutput run(Exec& exec, const ModelWeights& weights, const Batch& batch);

 private:
  // All that the calls of a step depend on but what its tensors hold: rows, outputs, pages of a sequence, and where in
  // scratch the step begins.
  using Shape = std::tuple<int64_t, int64_t, int64_t, size_t>;
  struct Step {
    ModelOutput output;
    size_t bytes = 0;  // of scratch that the output lies in
  };

  GraphCache<Shape, Step> steps_;
};

// forward and head_logits, through a graph where there may be one: on a GPU, while nobody records the stream.
ModelOutput run_model(Exec& exec, const ModelWeights& weights, const Batch& batch, DecodeGraphs* graphs);

}  // namespace fulgur

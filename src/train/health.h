// Numerical health of a training step: how large its numbers are, layer by layer, and which is the first that is not
// finite. Read from what the step has computed; changes no bit of it.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "model/model.h"

namespace fulgur {

// The sequence that lightning states are measured over: whole blocks of the grid from a sequence's start.
struct StateProbe {
  int64_t begin = 0, end = 0;  // rows of a step's first micro-batch; equal: none is long enough
};

// The probe for rows that start at row_begin, the last sequence ending at `rows`: their longest one.
StateProbe longest_sequence(const std::vector<int32_t>& row_begin, int64_t rows);

// Sums of a step: f64 [rows(layers), 2], each row accumulated by ops/magnitude.h.
class HealthSums {
 public:
  HealthSums(Exec& exec, StateProbe probe);  // in exec.scratch, cleared

  // After a micro-batch's forward. The first call measures the probe too.
  void add_forward(Exec& exec, const ModelWeights& weights, const Saved& saved);
  Tensor logits() const;  // for Targets::logits
  // Of the whole step.
  void add_gradients(Exec& exec, const ModelWeights& gradients);

  Tensor all() const { return sums_; }
  StateProbe probe() const { return probe_; }

 private:
  void add_state(Exec& exec, Arena& arena, const LayerWeights& weights, Tensor layer_input, Tensor sums);

  int64_t layers_;
  StateProbe probe_;
  bool probed_ = false;
  Tensor sums_;
};

struct Health {
  std::vector<double> residual_rms;  // [layers + 1]: of the rows that enter a layer; the last: of those that leave all
  std::vector<double> state_rms;     // [layers]: of the lightning state after the probe; NaN: softmax, or no probe
  double largest_logit = 0;          // in magnitude
  // Gradient norms of the kinds of parameters, over all layers.
  double embedding = 0, attention = 0, experts = 0, router = 0, norms = 0, head = 0;
  std::string not_finite;  // the first tensor, in the order of the computation, that is not finite; empty: all are
};

// rows: of the whole step.
Health health_of(const std::vector<double>& sums, const ModelConfig& config, StateProbe probe, int64_t rows);

// Under the keys of metrics.jsonl (docs/formats.md).
void add_metrics(std::vector<std::pair<std::string, double>>& metrics, const Health& health);

// Checkpoint name of the first parameter that holds a value which is not finite; empty: all are finite.
std::string first_not_finite(Exec& exec, const ModelWeights& weights);

}  // namespace fulgur

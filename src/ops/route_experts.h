// Softmax over all experts, the top k, renormalised to sum 1 (spec/model.md 2.3). Slot 0 holds the larger probability;
// ties go to the lower index. The weights are the softmax over the k chosen logits.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct RouteExperts {
  Tensor expert_ids;  // i32 [rows, k]
  Tensor weights;     // wide [rows, k]
  Tensor logits;      // wide [rows, experts]
  // Given when training, all three or none.
  Tensor probabilities = {};  // wide [rows, experts]
  Tensor log_sum_exp = {};    // wide [rows]: of all experts' logits
  Tensor entropy = {};        // wide [rows]: of the probabilities, in nats

  auto operands() const {
    return std::tuple{out(expert_ids), out(weights), in(logits), out(probabilities), out(log_sum_exp), out(entropy)};
  }
  void check() const {
    expect(logits.rank == 2 && logits.dtype == wide(logits.dtype), "logits are wide");
    expect(expert_ids.is(DType::i32, {logits.dim(0), expert_ids.dim(1)}) && expert_ids.dim(1) <= logits.dim(1),
           "k experts per row, at most all");
    expect(weights.is(logits.dtype, {logits.dim(0), expert_ids.dim(1)}), "one weight per choice");
    expect(!probabilities || (probabilities.same_shape(logits) && probabilities.dtype == logits.dtype),
           "one probability per logit");
    expect(bool(log_sum_exp) == bool(probabilities) && bool(entropy) == bool(probabilities),
           "a training call wants probabilities, their log-sum-exp and their entropy");
    expect(
        !probabilities || (log_sum_exp.is(logits.dtype, {logits.dim(0)}) && entropy.is(logits.dtype, {logits.dim(0)})),
        "one log-sum-exp and entropy per row");
  }
};

struct RouteExpertsBackward {
  Tensor dlogits;     // wide [rows, experts], overwritten: zero for experts that were not chosen
  Tensor dweights;    // wide [rows, k]
  Tensor expert_ids;  // i32 [rows, k]
  Tensor weights;     // wide [rows, k]

  auto operands() const { return std::tuple{out(dlogits), in(dweights), in(expert_ids), in(weights)}; }
  void check() const {
    expect(expert_ids.is(DType::i32, {dlogits.dim(0), expert_ids.dim(1)}), "k experts per row");
    expect(weights.is(dlogits.dtype, {dlogits.dim(0), expert_ids.dim(1)}), "one weight per choice");
    expect(dweights.same_shape(weights) && dweights.dtype == weights.dtype, "one gradient per weight");
  }
};

FULGUR_DECLARE_OPERATOR(route_experts, RouteExperts)
FULGUR_DECLARE_OPERATOR(route_experts_backward, RouteExpertsBackward)

}  // namespace fulgur

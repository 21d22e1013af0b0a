// The whole model in plain f64 loops, written from the formulas and from no operator: the oracle inside the repository.
// One document from position 0; lightning attention as its recurrence, every expert on every token.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace fulgur::tests {

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;

struct PlainResult {
  Rows hidden, logits;                                 // [tokens][width], [tokens][vocab]
  std::map<int, std::vector<Rows>> states;             // of lightning layers: [heads][head_dim][head_dim]
  std::vector<std::vector<std::vector<int>>> experts;  // [layers][tokens][k]
  std::vector<Rows> weights;                           // [layers][tokens][k]
};

class PlainModel {
 public:
  PlainModel(const ModelConfig& config, const ModelWeights& weights);  // f32 or f64 weights on the CPU
  PlainResult forward(const std::vector<int32_t>& ids) const;
  // Mean cross-entropy of the next-token predictions, in nats.
  double loss(const std::vector<int32_t>& ids) const;

 private:
  Vector times(const std::string& name, const Vector& x) const;  // W x
  Vector norm(const std::string& name, const Vector& x, double eps) const;
  Rows lightning(int layer, const std::string& name, const Rows& a, PlainResult& result) const;
  Rows softmax(const std::string& name, const Rows& a) const;
  Vector rotated(const Vector& x, int64_t heads, int64_t position) const;
  Vector experts(int layer, const std::string& name, const Vector& b, PlainResult& result) const;

  const ModelConfig& config_;
  std::map<std::string, Vector> weights_;
  std::map<std::string, int64_t> columns_;
};

}  // namespace fulgur::tests

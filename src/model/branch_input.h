// What a branch reads, and how it begins.
#pragma once
#include <optional>

#include "ops/linear.h"
#include "ops/residual_norm_linear.h"

namespace fulgur {

struct BranchInput {
  Tensor x;                               // [rows, width], normalised
  std::optional<ResidualNorm> join = {};  // makes x; still to be done, with the first product

  // y = x w^T
  void first_product(Stream& stream, Tensor y, const Weight& w) const {
    if (join) residual_norm_linear(stream, {.y = y, .join = *join, .w = w});
    else linear(stream, {.y = y, .x = x, .w = w});
  }
};

}  // namespace fulgur

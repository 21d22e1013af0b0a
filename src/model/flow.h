// The residual stream between two halves of a layer, and where a layer works.
#pragma once
#include <optional>

#include "model/model.h"

namespace fulgur {

// Not all of it is wanted everywhere: what is absent is not written.
struct Flow {
  Tensor sum;          // what the norm reads; carried on where the model is pre-norm
  Tensor x;            // its norm: what the branch reads; carried on where the model is post-norm, as published
  Tensor inverse_rms;  // of the norm, when training
  std::optional<ResidualNorm> join = {};  // makes them; still to be done, by whoever reads x first

  Flow rows(int64_t begin, int64_t end) const {
    const auto part = [&](const Tensor& t) { return t ? t.rows(begin, end) : t; };
    return {part(sum), part(x), part(inverse_rms)};
  }
};

// Room for a flow. Only backward and a pre-norm model ask for the sum once its norm is known.
inline Flow flow_in(Arena& keep, const ModelConfig& config, DType type, int64_t rows, bool training) {
  const auto room = [&] { return keep.alloc(type, {rows, config.width}); };
  return {.sum = training || !config.post_norm ? room() : Tensor{},
          .x = room(),
          .inverse_rms = training ? keep.alloc(wide(type), {rows}) : Tensor{}};
}

// Room for what experts leave of so many rows.
inline BranchOutput choices_in(Arena& keep, const ModelConfig& config, DType type, int64_t rows) {
  const int64_t k = config.experts_per_token;
  return {.rows = keep.alloc(type, {rows * k, config.width}),
          .expert_weights = keep.alloc(wide(type), {rows, k}),
          .place = keep.alloc(DType::i32, {rows, k})};
}

// Where a layer works: its middle, and what its experts leave. The join at its end reads both.
struct LayerRoom {
  Flow middle;
  BranchOutput choices;

  LayerRoom rows(int64_t begin, int64_t end) const {  // choices lie in the same place whichever rows have theirs
    const int64_t count = end - begin, k = choices.place.dim(1);
    return {middle.rows(begin, end),
            {choices.rows.rows(0, count * k), choices.expert_weights.rows(0, count), choices.place.rows(0, count)}};
  }
};

}  // namespace fulgur

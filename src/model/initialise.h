// Initial values: element i of the tensor NAME is a normal drawn from (seed, NAME, i) alone, times the tensor's
// standard deviation, so shards, ranks and threads agree.
#pragma once
#include "base/threads.h"
#include "model/weights.h"

namespace fulgur {

// The first normal of Box-Muller, sqrt(-2 ln u0) * cos(2 pi u1), of the block of Philox4x32-10 with key = seed, counter
// low = element, counter high = fnv1a64(name). u0 and u1 are its words 0 and 1, each mapped to the middle of one of
// 2^32 intervals of (0, 1); words 2 and 3 and the second normal are not used.
double initial_normal(uint64_t seed, uint64_t name_hash, uint64_t element);

// Standard deviation of one row of a tensor of the file; 0 for norms, which start as ones (spec/model.md 8.11).
double initial_deviation(const ModelConfig& config, const Parameter& parameter, int64_t row);

// Fills every parameter of an f32, f64 or bf16 buffer, whatever its device; computed on the CPU, in f64 and rounded
// once; bf16 is the rounded f32.
void initialise(const ModelConfig& config, ModelWeights& weights, uint64_t seed, Threads& threads);

}  // namespace fulgur

// ModelScorer: bits per byte of each text under one of our own models.
#pragma once
#include <memory>
#include <string>

#include "data/scorer.h"

namespace fulgur {

// model: a MODEL folder; longest: bytes of the longest text it will be asked for. Computes in f32 on the CPU. Throws
// what loading a model throws.
std::unique_ptr<Scorer> make_model_scorer(const std::string& model, int64_t longest, int threads);

}  // namespace fulgur

// Bits per byte of held-back documents: each scored whole and once, no context beyond its document, the end token's
// nats counted, its bytes not (docs/formats.md).
#pragma once
#include <atomic>
#include <optional>

#include "data/corpus.h"
#include "model/model.h"

namespace fulgur {

// Rows of a batch of whole documents.
int64_t validation_rows(const Corpus& corpus);

// scratch has to hold a forward of validation_rows(). Nothing when `stop` became true before all was scored.
std::optional<double> bits_per_byte(Exec& exec, const ModelWeights& weights, const Corpus& corpus,
                                    const std::atomic<bool>* stop = nullptr);

}  // namespace fulgur

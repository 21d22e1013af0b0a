// Bits per byte of held-back documents: each scored whole and once, no context beyond its document, the end token's
// nats counted, its bytes not (docs/formats.md).
#pragma once
#include "data/corpus.h"
#include "model/model.h"

namespace fulgur {

// Rows of a batch of whole documents.
int64_t validation_rows(const Corpus& corpus);

// scratch has to hold a forward of validation_rows().
double bits_per_byte(Exec& exec, const ModelWeights& weights, const Corpus& corpus);

}  // namespace fulgur

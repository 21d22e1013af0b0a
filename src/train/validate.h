// Bits per byte of held-back documents: each scored whole and once, no context beyond its document, the end token's
// nats counted, its bytes not (docs/formats.md).
#pragma once
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "model/model.h"

namespace fulgur {

// Rows of a batch of whole documents.
int64_t validation_rows(const Corpus& corpus);

// scratch has to hold a forward of validation_rows(). Nothing when `stop` became true before all was scored.
// of_parts: where given, the bits per byte of each of the corpus's parts.
std::optional<double> bits_per_byte(Exec& exec, const ModelWeights& weights, const Corpus& corpus,
                                    const std::atomic<bool>* stop = nullptr, std::vector<double>* of_parts = nullptr);

// A short name for each part: its file's, without extension; where two have the same, the whole path.
std::vector<std::string> part_names(const Corpus& corpus);

}  // namespace fulgur

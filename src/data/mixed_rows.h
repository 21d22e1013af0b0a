// MixedRows: the rows of several sources, each packed by itself, mixed by weights that may change by stage.
#pragma once
#include <string>
#include <vector>

#include "data/mixture.h"
#include "data/packed_rows.h"

namespace fulgur {

struct TrainingSource {
  std::string name;
  double weight = 1;  // where the configuration gives none
  DocumentList documents;
};

class MixedRows : public Rows {
 public:
  // vocab_size: tokens are below it. Throws invalid_input for a source without tokens.
  MixedRows(std::vector<TrainingSource> sources, std::vector<MixtureStage> stages, int64_t sequence, uint64_t seed,
            int32_t vocab_size);

  // Throws corrupt_file for a token outside the vocabulary.
  PackedRow row(int64_t index) override;
  // The source it comes from, and its number there.
  MixedRow origin(int64_t index) { return mixture_.at(index); }

  const std::vector<TrainingSource>& sources() const { return sources_; }
  int64_t tokens_per_epoch() const;  // of all sources
  // Of each source, how often the rows before this one have gone through its documents.
  std::vector<double> epochs_before(int64_t row);

 private:
  std::vector<TrainingSource> sources_;
  std::vector<PackedRows> rows_;
  Mixture mixture_;
  int64_t sequence_;
  int32_t vocab_size_;
};

}  // namespace fulgur

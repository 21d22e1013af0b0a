#include "data/mixed_rows.h"

#include "base/error.h"

namespace fulgur {

MixedRows::MixedRows(std::vector<TrainingSource> sources, std::vector<MixtureStage> stages, int64_t sequence,
                     uint64_t seed, int32_t vocab_size)
    : sources_(std::move(sources)), mixture_(std::move(stages)), sequence_(sequence), vocab_size_(vocab_size) {
  for (const TrainingSource& source : sources_) {
    if (source.documents.tokens == 0)
      fail(ErrorKind::invalid_input, "data.train: the source " + source.name + " holds no text");
    rows_.emplace_back(source.documents, sequence, seed);
  }
}

PackedRow MixedRows::row(int64_t index) {
  const MixedRow mixed = mixture_.at(index);
  PackedRow row = rows_[size_t(mixed.source)].row(mixed.row);
  const auto judge = [&](int32_t token, int32_t least) {
    if (token < least || token >= vocab_size_)
      fail(ErrorKind::corrupt_file, "data.train: the source " + sources_[size_t(mixed.source)].name +
                                        " holds the token " + std::to_string(token) + ", expected 0 to " +
                                        std::to_string(vocab_size_ - 1) + ": prepare it again");
  };
  for (const int32_t token : row.tokens) judge(token, 0);
  for (const int32_t target : row.targets) judge(target, -1);
  return row;
}

int64_t MixedRows::tokens_per_epoch() const {
  int64_t tokens = 0;
  for (const PackedRows& rows : rows_) tokens += rows.tokens_per_epoch();
  return tokens;
}

std::vector<double> MixedRows::epochs_before(int64_t row) {
  std::vector<double> epochs;
  const std::vector<int64_t> before = mixture_.rows_before(row);
  for (size_t s = 0; s < before.size(); ++s)
    epochs.push_back(double(before[s] * sequence_) / double(rows_[s].tokens_per_epoch()));
  return epochs;
}

}  // namespace fulgur

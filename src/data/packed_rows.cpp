#include "data/packed_rows.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace fulgur {
namespace {

// A list that keeps its documents.
DocumentList keeping(TokenizedDocuments documents) {
  const auto kept = std::make_shared<const TokenizedDocuments>(std::move(documents));
  DocumentList list = list_of(*kept);
  list.document = [kept](int64_t i) { return kept->document(i); };
  return list;
}

}  // namespace

void TokenizedDocuments::add(std::span<const int32_t> document) {
  tokens.insert(tokens.end(), document.begin(), document.end());
  begin.push_back(int64_t(tokens.size()));
}

void append_document(PackedRow& row, std::span<const int32_t> document) {
  row.begin.push_back(int32_t(row.tokens.size()));
  for (size_t i = 0; i < document.size(); ++i) {
    row.tokens.push_back(document[i]);
    row.targets.push_back(i + 1 < document.size() ? document[i + 1] : -1);
    row.positions.push_back(int64_t(i));
  }
}

DocumentList list_of(const TokenizedDocuments& documents) {
  return {documents.count(), int64_t(documents.tokens.size()),
          [&documents](int64_t i) { return documents.document(i); }};
}

PackedRows::PackedRows(DocumentList documents, int64_t sequence, uint64_t seed)
    : documents_(std::move(documents)), sequence_(sequence), seed_(seed) {
  if (documents_.tokens == 0) fail(ErrorKind::invalid_input, "data.train: the files hold no text");
  if (documents_.count > std::numeric_limits<int32_t>::max())
    fail(ErrorKind::unsupported, "data.train: a source has " + std::to_string(documents_.count) +
                                     " documents; at most 2^31 - 1 are supported: divide it");
}

PackedRows::PackedRows(TokenizedDocuments documents, int64_t sequence, uint64_t seed)
    : PackedRows(keeping(std::move(documents)), sequence, seed) {}

// Fisher-Yates with one Philox draw per document, keyed by the seed and counted by (document, epoch).
void PackedRows::order_epoch(int64_t epoch) {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  order_.resize(size_t(documents_.count));
  std::iota(order_.begin(), order_.end(), 0);
  for (size_t i = order_.size(); i-- > 1;) {
    const PhiloxBlock draw = philox(seed_, i, uint64_t(epoch));
    const uint64_t word = uint64_t(draw[1]) << 32 | draw[0];
    std::swap(order_[i], order_[size_t((static_cast<unsigned __int128>(word) * (i + 1)) >> 64)]);
  }
  starts_.assign(1, 0);
  for (const int32_t d : order_) starts_.push_back(starts_.back() + int64_t(documents_.document(d).size()));
}

PackedRow PackedRows::row(int64_t index) {
  PackedRow row;
  int64_t at = index * sequence_;  // in the endless stream of epochs
  while (int64_t(row.tokens.size()) < sequence_) {
    order_epoch(at / tokens_per_epoch());
    const int64_t in_epoch = at % tokens_per_epoch();
    const size_t place = size_t(std::upper_bound(starts_.begin(), starts_.end(), in_epoch) - starts_.begin()) - 1;
    const std::span<const int32_t> document = documents_.document(order_[place]);
    const int64_t first = in_epoch - starts_[place];
    const int64_t rows = std::min(int64_t(document.size()) - first, sequence_ - int64_t(row.tokens.size()));
    row.begin.push_back(int32_t(row.tokens.size()));
    for (int64_t i = 0; i < rows; ++i) {
      const size_t next = size_t(first + i + 1);
      row.tokens.push_back(document[next - 1]);
      row.targets.push_back(next < document.size() ? document[next] : -1);
      row.positions.push_back(i);
    }
    at += rows;
  }
  return row;
}

}  // namespace fulgur

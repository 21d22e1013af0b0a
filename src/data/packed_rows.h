// PackedRows: documents laid end to end in an order drawn from (seed, epoch), cut into rows of equal length without
// padding. Row i is a function of the documents, the seed and i alone.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace fulgur {

// A corpus in tokens: each document with its begin and end tokens.
struct TokenizedDocuments {
  std::vector<int32_t> tokens;
  std::vector<int64_t> begin{0};  // document i is tokens [begin[i], begin[i + 1])

  int64_t count() const { return int64_t(begin.size()) - 1; }
  std::span<const int32_t> document(int64_t i) const {
    return std::span(tokens).subspan(size_t(begin[size_t(i)]), size_t(begin[size_t(i) + 1] - begin[size_t(i)]));
  }
  void add(std::span<const int32_t> document);
};

// Documents, wherever they lie.
struct DocumentList {
  int64_t count = 0, tokens = 0;
  std::function<std::span<const int32_t>(int64_t)> document;
};
// Of documents that outlive the list.
DocumentList list_of(const TokenizedDocuments& documents);

struct PackedRow {
  std::vector<int32_t> tokens, targets;  // [sequence]; targets: the document's next token, -1 at its end
  std::vector<int64_t> positions;        // restart at every document and at the row's start
  std::vector<int32_t> begin;            // where the pieces of documents start, ascending; begin[0] == 0
};

// Appends a whole document.
void append_document(PackedRow& row, std::span<const int32_t> document);

// The rows of a run, of equal length; row i is always the same.
class Rows {
 public:
  virtual ~Rows() = default;
  virtual PackedRow row(int64_t index) = 0;
};

class PackedRows : public Rows {
 public:
  // sequence: tokens of a row. Throws invalid_input when the documents hold no token to predict.
  PackedRows(DocumentList documents, int64_t sequence, uint64_t seed);
  PackedRows(TokenizedDocuments documents, int64_t sequence, uint64_t seed);

  PackedRow row(int64_t index) override;
  int64_t tokens_per_epoch() const { return documents_.tokens; }

 private:
  void order_epoch(int64_t epoch);

  DocumentList documents_;
  int64_t sequence_;
  uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<int32_t> order_;   // of this epoch
  std::vector<int64_t> starts_;  // of the ordered documents, in tokens of this epoch
};

}  // namespace fulgur

#include "train/validate.h"

#include <algorithm>
#include <filesystem>
#include <numbers>

#include "device/transfer.h"
#include "train/micro_batch.h"

namespace fulgur {
namespace {

constexpr int64_t kValidationRows = 4096;

// Documents [begin, end) that fill at most `rows` rows, none of them behind `last`.
int64_t end_of_batch(const TokenizedDocuments& documents, int64_t begin, int64_t last, int64_t rows) {
  int64_t end = begin + 1;
  while (end < last && documents.begin[size_t(end) + 1] - documents.begin[size_t(begin)] <= rows) ++end;
  return end;
}

PackedRow whole_documents(const TokenizedDocuments& documents, int64_t begin, int64_t end) {
  PackedRow row;
  for (int64_t d = begin; d < end; ++d) append_document(row, documents.document(d));
  return row;
}

}  // namespace

int64_t validation_rows(const Corpus& corpus) {
  int64_t rows = kValidationRows;
  for (int64_t d = 0; d < corpus.documents.count(); ++d)
    rows = std::max(rows, int64_t(corpus.documents.document(d).size()));
  return rows;
}

std::optional<double> bits_per_byte(Exec& exec, const ModelWeights& weights, const Corpus& corpus,
                                    const std::atomic<bool>* stop, std::vector<double>* of_parts) {
  double nats = 0, nats_before = 0;
  const Arena::Scope all(exec.scratch);
  const Tensor sum = exec.scratch.alloc(DType::f64, {1});
  clear(exec.stream, sum);
  const int64_t rows = validation_rows(corpus);
  std::vector<Corpus::Part> parts = corpus.parts;
  if (parts.empty()) parts.push_back({"", corpus.documents.count(), corpus.bytes});
  int64_t begin = 0;
  for (const Corpus::Part& part : parts) {
    for (int64_t end; begin < part.end; begin = end) {
      end = end_of_batch(corpus.documents, begin, part.end, rows);
      if (stop && *stop) return std::nullopt;
      const Arena::Scope scratch(exec.scratch);
      const std::vector<PackedRow> packed{whole_documents(corpus.documents, begin, end)};
      const MicroBatch micro = micro_batch_of(exec, packed);
      head_nats(exec, weights, forward(exec, weights, micro.batch), micro.targets, sum);
    }
    nats = download<double>(exec.stream, sum).front();
    if (of_parts) of_parts->push_back((nats - nats_before) / std::numbers::ln2 / double(part.bytes));
    nats_before = nats;
  }
  return nats / std::numbers::ln2 / double(corpus.bytes);
}

std::vector<std::string> part_names(const Corpus& corpus) {
  std::vector<std::string> names;
  const auto stem = [](const Corpus::Part& part) { return std::filesystem::path(part.path).stem().string(); };
  for (const Corpus::Part& part : corpus.parts) {
    const auto same = [&](const Corpus::Part& other) { return stem(other) == stem(part); };
    names.push_back(std::count_if(corpus.parts.begin(), corpus.parts.end(), same) > 1 ? part.path : stem(part));
  }
  return names;
}

}  // namespace fulgur

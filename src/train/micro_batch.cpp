#include "train/micro_batch.h"

#include <algorithm>

#include "device/transfer.h"

namespace fulgur {
MicroBatch micro_batch_of(Exec& exec, std::span<const PackedRow> rows) {
  std::vector<int32_t> tokens, targets, begin;
  std::vector<int64_t> positions;
  for (const PackedRow& row : rows) {
    for (const int32_t b : row.begin) begin.push_back(b + int32_t(tokens.size()));
    tokens.insert(tokens.end(), row.tokens.begin(), row.tokens.end());
    targets.insert(targets.end(), row.targets.begin(), row.targets.end());
    positions.insert(positions.end(), row.positions.begin(), row.positions.end());
  }
  begin.push_back(int32_t(tokens.size()));
  MicroBatch micro;
  for (size_t i = 0; i + 1 < begin.size(); ++i)
    micro.batch.longest = std::max<int64_t>(micro.batch.longest, begin[i + 1] - begin[i]);
  Uploads uploads(exec.scratch);
  micro.batch.tokens = uploads.add(tokens), micro.batch.positions = uploads.add(positions);
  const int64_t ends = int64_t(begin.size());
  begin.resize(tokens.size() + 1);  // memory for as many sequences as there may be: what a batch takes, its rows decide
  micro.batch.row_begin = uploads.add(begin).rows(0, ends), micro.targets = uploads.add(targets);
  uploads.send(exec.stream);
  return micro;
}

MicroBatch largest_micro_batch(Exec& exec, int64_t rows, int64_t longest) {
  MicroBatch micro;
  micro.batch.longest = longest;
  micro.batch.tokens = exec.scratch.alloc(DType::i32, {rows}),
  micro.batch.positions = exec.scratch.alloc(DType::i64, {rows});
  micro.batch.row_begin = exec.scratch.alloc(DType::i32, {rows + 1}),
  micro.targets = exec.scratch.alloc(DType::i32, {rows});
  return micro;
}

}  // namespace fulgur

#include "train/micro_batch.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "device/transfer.h"

namespace fulgur {
namespace {

// Of numbers up to twice a power of two, four come up.
int64_t rounded_up(int64_t n) {
  const auto step = std::max<int64_t>(1, int64_t(std::bit_floor(uint64_t(n))) / 4);
  return (n + step - 1) / step * step;
}

}  // namespace

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

MicroBatch largest_micro_batch(const Exec& exec, int64_t rows, int64_t longest) {
  MicroBatch micro;
  micro.batch.longest = longest;
  micro.batch.tokens = exec.scratch.alloc(DType::i32, {rows}),
  micro.batch.positions = exec.scratch.alloc(DType::i64, {rows});
  micro.batch.row_begin = exec.scratch.alloc(DType::i32, {rows + 1}),
  micro.targets = exec.scratch.alloc(DType::i32, {rows});
  return micro;
}

MicroBatch placed(Stream& stream, const MicroBatch& micro, const MicroBatch& room) {
  const int64_t rows = micro.batch.rows(), sequences = micro.batch.sequences(),
                all = std::min(rounded_up(sequences), rows);
  MicroBatch there;
  there.batch.longest = std::min(rounded_up(micro.batch.longest), room.batch.longest);
  const auto put = [&](Tensor to, Tensor from) { return copy(stream, to.rows(0, from.dim(0)), from), to; };
  there.batch.tokens = put(room.batch.tokens, micro.batch.tokens).rows(0, rows);
  there.batch.positions = put(room.batch.positions, micro.batch.positions).rows(0, rows);
  there.batch.row_begin = put(room.batch.row_begin, micro.batch.row_begin).rows(0, all + 1);
  there.targets = put(room.targets, micro.targets).rows(0, rows);
  const std::vector<int32_t> empty(size_t(all - sequences), int32_t(rows));
  send(stream, there.batch.row_begin.rows(sequences + 1, all + 1), empty.data());
  return there;
}

}  // namespace fulgur

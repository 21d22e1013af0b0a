// Packed rows as the tensors of a MicroBatch.
#pragma once
#include <span>

#include "data/packed_rows.h"
#include "train/train_step.h"

namespace fulgur {

// In exec.scratch. Every piece of a document is a sequence of its own.
MicroBatch micro_batch_of(Exec& exec, std::span<const PackedRow> rows);

// The same without bytes, for a measuring run: `rows` rows of tokens, the longest sequence has `longest`.
MicroBatch largest_micro_batch(Exec& exec, int64_t rows, int64_t longest);

}  // namespace fulgur

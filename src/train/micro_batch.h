// Packed rows as the tensors of a MicroBatch.
#pragma once
#include <span>

#include "data/packed_rows.h"
#include "train/train_step.h"

namespace fulgur {

// In exec.scratch. Every piece of a document is a sequence of its own.
MicroBatch micro_batch_of(Exec& exec, std::span<const PackedRow> rows);

// Room for `rows` rows of tokens, in sequences of at most `longest`; a measuring run takes it for a micro-batch.
MicroBatch largest_micro_batch(const Exec& exec, int64_t rows, int64_t longest);

// A copy of `micro` in such room, one of few shapes: empty sequences follow its own, and its longest may be stated as
// up to a quarter longer. No bit of a result is another.
MicroBatch placed(Stream& stream, const MicroBatch& micro, const MicroBatch& room);

}  // namespace fulgur

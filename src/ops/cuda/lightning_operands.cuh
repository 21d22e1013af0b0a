// What lightning attention's kernels read of a call, and what they ask of its tensors.
#pragma once
#include "ops/cuda/attention_operands.cuh"
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/lightning_walk.cuh"
#include "ops/lightning_attention.h"

namespace fulgur::cuda {

// Operands that forward and backward have in common. Optional ones: data null where not given.
template <class T>
struct LightningInputs {
  View<const T, 4> qkv;
  View<const float, 1> decay;
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  View<const int32_t, 1> slots;
  View<float, 4> state;
  View<T, 5> tail;

  __device__ int columns() const { return int(qkv.shape[3]); }
  __device__ Span span(int64_t sequence) const {
    const int64_t begin = row_begin(sequence), end = row_begin(sequence + 1);
    return {begin, end, slots.data && begin < end ? int(positions(begin) % kGrid) : 0};
  }
  // Part 0, 1, 2: q, k, v from a column on, and what the slot's tail holds of k and v.
  __device__ Rows<T> rows(int64_t slot, int64_t head, int part, int column) const {
    const bool has_tail = tail.data && part > 0;
    return {&qkv(0, head, part, column), qkv.stride[0], has_tail ? &tail(slot, head, part - 1, 0, column) : nullptr,
            tail.stride[3], true};
  }
  __device__ StoredState stored(const View<float, 4>& of, int64_t slot, int64_t head, int column,
                                bool transposed) const {
    if (!of.data) return {};
    return {transposed ? &of(slot, head, column, 0) : &of(slot, head, 0, column), of.stride[2], transposed, columns(),
            columns() - column};
  }
};

template <class T, class Operands>
LightningInputs<T> lightning_inputs(const Operands& op) {
  expect_vectors(op.qkv, op.state, op.tail);
  return {view_of<const T, 4>(op.qkv),
          view_of<const float, 1>(op.decay),
          view_of<const int32_t, 1>(op.row_begin),
          view_of<const int64_t, 1>(op.positions),
          view_of<const int32_t, 1>(op.slots),
          view_of<float, 4>(op.state),
          view_of<T, 5>(op.tail)};
}

// Which of a head's `count` thread blocks this one is: one of a cluster, or, where the GPU has none, the launch's.
struct Ranks {
  int count, alone = -1;  // alone: the rank of all thread blocks of the launch, which follows those of lower ranks
  __device__ bool together() const { return count > 1 && alone < 0; }
  __device__ int rank() const { return alone < 0 ? int(blockIdx.x % unsigned(count)) : alone; }
  __device__ int64_t item() const { return alone < 0 ? blockIdx.x / unsigned(count) : blockIdx.x; }
};

// Starts `kernel` with argument.ranks.count thread blocks for each sequence and head, as a cluster or one after
// another.
template <class Block, class Argument>
void launch_walks(Stream& stream, const char* name, void (*kernel)(Argument), Argument argument, int64_t items,
                  size_t more_bytes = 0) {
  const size_t bytes = Block::kBytes + more_bytes;
  allow_block_memory(name, kernel, bytes);
  const int count = argument.ranks.count;
  if (count == 1 || has_clusters())
    return launch(stream, name, {dim3(unsigned(items * count)), dim3(Block::kThreads), bytes, unsigned(count)}, kernel,
                  argument);
  for (argument.ranks.alone = 0; argument.ranks.alone < count; ++argument.ranks.alone)
    launch(stream, name, {dim3(unsigned(items)), dim3(Block::kThreads), bytes}, kernel, argument);
}

}  // namespace fulgur::cuda

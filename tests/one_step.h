// One micro-batch of one packed row through forward, loss and backward, in memory of its own.
#pragma once
#include <vector>

#include "device/buffer.h"
#include "device/transfer.h"
#include "train/micro_batch.h"

namespace fulgur::tests {

template <class T>
struct OneStep {
  Buffer scratch_memory{size_t(64) << 20, Purpose::activations}, tape_memory{size_t(64) << 20, Purpose::activations},
      grads_memory;
  Arena scratch{scratch_memory.data(), scratch_memory.bytes(), {}}, tape{tape_memory.data(), tape_memory.bytes(), {}};
  Stream stream{{}, 2};
  ModelWeights grads;
  double loss = 0, balance_loss = 0, z_loss = 0;

  // balance: its sums are the step's own.
  OneStep(const ModelConfig& c, const ModelWeights& w, const PackedRow& row, Balance balance)
      : grads_memory(size_t(flat_elements(c)) * sizeof(T), Purpose::optimizer) {
    grads = views_of(c, grads_memory.tensor(dtype_of<T>, {flat_elements(c)}));
    Exec exec{stream, scratch, tape, c};
    const std::vector<PackedRow> rows{row};
    const MicroBatch micro = micro_batch_of(exec, rows);
    int64_t counted = 0;
    for (const int32_t t : row.targets) counted += t >= 0;
    const int64_t columns = RouterSums::columns(c.experts);
    std::vector<double> sums(size_t(c.layers * columns));
    balance.sums = contiguous(reinterpret_cast<std::byte*>(sums.data()), DType::f64, {}, {c.layers, columns});
    const Tensor scale = upload(stream, scratch, std::vector<double>{1.0 / double(counted)});
    micro_step(exec, w, grads, micro, scale, balance,
               contiguous(reinterpret_cast<std::byte*>(&loss), DType::f64, {}, {1}));
    for (int64_t at = 0; at < c.layers * columns; at += columns)
      balance_loss += sums[size_t(at + RouterSums::balance_loss)], z_loss += sums[size_t(at + RouterSums::z_loss)];
  }
};

inline PackedRow row_of(const std::vector<std::vector<int32_t>>& documents) {
  PackedRow row;
  for (const auto& d : documents) append_document(row, d);
  return row;
}

}  // namespace fulgur::tests

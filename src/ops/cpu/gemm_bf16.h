// The matrix product of bf16 runs: f32 sums of products of bf16 numbers. Each output is summed over k in one order that
// depends on k and the instruction set alone: blocks of 32 steps on AMX, pairs on AVX512-BF16, single steps elsewhere
// (docs/numerics.md). So its bits depend neither on the rows around it nor on threads, and steps at the end of k whose
// products are all zero change none.
#pragma once
#include <cstdint>

#include "base/tensor.h"
#include "base/threads.h"
#include "ops/cpu/gemm.h"
#include "ops/linear.h"

namespace fulgur::cpu {

struct Bf16Input {
  const void* data;
  DType dtype;                        // bf16, or f32 that is rounded on the way in
  int64_t row_stride, column_stride;  // elements; one of them is 1
  Bf16Input transposed() const { return {data, dtype, column_stride, row_stride}; }
};

struct Bf16Output {
  void* data;
  DType dtype;  // f32, or bf16 rounded once
  int64_t row_stride;
};

// c[m, n] = (store == add ? c : 0) + sum over k of a[m, k] * b[k, n]; the sum begins at the c that is added to.
struct Bf16Product {
  Bf16Output c;
  Bf16Input a, b;
  int64_t m, n, k;
  Store store = Store::overwrite;
  // Ascending steps of k, the last one k itself, after which a new block of 32 begins: a sum that goes on in another
  // call must be cut where that call may have been. Absent: one run.
  const int64_t* cuts = nullptr;
  int64_t cut_count = 0;
  QuantisedColumns quantised = {};  // in b's place; its columns are those of a bf16 b that lie k by k
};

// The pool's threads divide the outputs.
void gemm(Threads& threads, const Bf16Product& product);

// Several products at once: threads divide the outputs of all of them.
void gemm_batch(Threads& threads, const Bf16Product* products, int64_t count);

// Whether an f32 b is rounded while it is packed, so that rounding it before costs more.
bool packs_f32();

// On the calling thread, for use inside a parallel region; keeps its packing space per thread.
void gemm_serial(const Bf16Product& product);

}  // namespace fulgur::cpu

// Appends k and v rows to the pages of their sequences; a page holds 64 positions (base/grid.h). A position that the
// page table does not reach breaks the promise on the CPU; on CUDA, where it is not read back, its row goes nowhere, as
// does one whose page lies outside kv_pages.
#pragma once
#include "base/grid.h"
#include "ops/operator.h"

namespace fulgur {

struct StoreKv {
  Tensor kv_pages;    // [pages, 2, kv_heads, 64, head_dim]: k after rotary, then v
  Tensor k, v;        // [rows, kv_heads, head_dim]; may be slices of qkv rows
  Tensor row_begin;   // i32 [sequences + 1]
  Tensor positions;   // i64 [rows]
  Tensor page_table;  // i32 [sequences, pages of the longest]: page of position p is page_table[sequence, p / 64]

  auto operands() const {
    return std::tuple{inout(kv_pages), in(k), in(v), in(row_begin), in(positions), in(page_table)};
  }
  int64_t bytes() const { return 2 * (k.bytes() + v.bytes()); }
  void check() const {
    expect(k.rank == 3 && v.same_shape(k) && v.dtype == k.dtype, "v matches k");
    expect(kv_pages.is(k.dtype, {kv_pages.dim(0), 2, k.dim(1), kGrid, k.dim(2)}), "pages match k");
    expect(positions.is(DType::i64, {k.dim(0)}), "one position per row");
    expect(row_begin.dtype == DType::i32 && page_table.is(DType::i32, {row_begin.dim(0) - 1, page_table.dim(1)}),
           "one row of pages per sequence");
  }
};

FULGUR_DECLARE_OPERATOR(store_kv, StoreKv)

}  // namespace fulgur

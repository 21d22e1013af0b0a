// Sorts the choices (row, slot) by expert; inside one expert by row. With a capacity, an expert takes at most so many
// choices of every window of consecutive rows, the earliest rows first, and the rest are dropped (spec/model.md 8.10).
// A row's choices name different experts, so the order of slots never decides.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct GroupRows {
  Tensor sorted_rows;   // i32 [rows * k]: the row of each choice that is kept, grouped by expert; then -1
  Tensor place;         // i32 [rows, k]: where a choice stands in sorted_rows; -1: dropped
  Tensor expert_begin;  // i32 [experts + 1]: choices of expert e are [expert_begin[e], expert_begin[e + 1])
  Tensor expert_ids;    // i32 [rows, k], each row's distinct
  Tensor choices =
      {};              // i32 [windows, experts], or absent: choices of an expert in a window, the dropped ones included
  int64_t window = 0;  // rows; divides the rows; 0: all rows are one window
  int64_t capacity = 0;  // 0: nothing is dropped

  auto operands() const {
    return std::tuple{out(sorted_rows), out(place), out(expert_begin), in(expert_ids), out(choices)};
  }
  void check() const {
    expect(expert_ids.rank == 2 && expert_ids.dtype == DType::i32, "expert ids are i32");
    expect(place.is(DType::i32, {expert_ids.dim(0), expert_ids.dim(1)}), "one place per choice");
    expect(sorted_rows.is(DType::i32, {expert_ids.count()}), "one row per choice");
    expect(expert_begin.rank == 1 && expert_begin.dtype == DType::i32, "one range per expert");
    expect(window >= 0 && capacity >= 0 && place.dim(0) % rows_per_window() == 0, "windows fill the rows");
    expect(!choices || choices.is(DType::i32, {place.dim(0) / rows_per_window(), expert_begin.dim(0) - 1}),
           "one count per window and expert");
  }
  int64_t rows_per_window() const { return window > 0 ? window : place.dim(0) > 0 ? place.dim(0) : 1; }
};

FULGUR_DECLARE_OPERATOR(group_rows, GroupRows)

}  // namespace fulgur

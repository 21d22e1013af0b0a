// Sorts the choices (row, slot) by expert; inside one expert by row. Dropless.
#pragma once
#include "ops/operator.h"

namespace fulgur {

struct GroupRows {
  Tensor sorted_rows;   // i32 [rows * k]: the row of each choice, grouped by expert
  Tensor place;         // i32 [rows, k]: where a choice stands in sorted_rows
  Tensor expert_begin;  // i32 [experts + 1]: choices of expert e are [expert_begin[e], expert_begin[e + 1])
  Tensor expert_ids;    // i32 [rows, k], each row's distinct

  auto operands() const { return std::tuple{out(sorted_rows), out(place), out(expert_begin), in(expert_ids)}; }
  void check() const {
    expect(expert_ids.rank == 2 && expert_ids.dtype == DType::i32, "expert ids are i32");
    expect(place.is(DType::i32, {expert_ids.dim(0), expert_ids.dim(1)}), "one place per choice");
    expect(sorted_rows.is(DType::i32, {expert_ids.count()}), "one row per choice");
    expect(expert_begin.rank == 1 && expert_begin.dtype == DType::i32, "one range per expert");
  }
};

FULGUR_DECLARE_OPERATOR(group_rows, GroupRows)

}  // namespace fulgur

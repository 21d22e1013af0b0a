// From rows to experts: the router's logits, each row's experts and weights, the choices sorted by expert. The bits are
// those of linear, route_experts and group_rows one after another, of which it is made.
#pragma once
#include "ops/group_rows.h"
#include "ops/linear.h"
#include "ops/route_experts.h"

namespace fulgur {

struct RouteRows {
  Tensor sorted_rows;   // as group_rows writes them: i32 [rows * k], [rows, k], [experts + 1]
  Tensor place;         //
  Tensor expert_begin;  //
  Tensor expert_ids;    // i32 [rows, k]
  Tensor weights;       // wide [rows, k]
  Tensor logits;        // wide [rows, experts]
  Tensor x;             // [rows, width]
  Weight router;        // [experts, width]
  // As route_experts writes them when training, all three or none.
  Tensor probabilities = {}, log_sum_exp = {}, entropy = {};
  // As group_rows counts and drops.
  Tensor choices = {};
  int64_t window = 0, capacity = 0;

  Linear product() const { return {.y = logits, .x = x, .w = router}; }
  RouteExperts choice() const { return {expert_ids, weights, logits, probabilities, log_sum_exp, entropy}; }
  GroupRows grouping() const { return {sorted_rows, place, expert_begin, expert_ids, choices, window, capacity}; }

  auto operands() const {
    return std::tuple{out(sorted_rows), out(place),  out(expert_begin), out(expert_ids),    out(weights),
                      out(logits),      in(x),       in(router),        out(probabilities), out(log_sum_exp),
                      out(entropy),     out(choices)};
  }
  Products products() const { return product().products(); }
  void check() const {
    product().check(), choice().check(), grouping().check();
    expect(expert_begin.is(DType::i32, {logits.dim(1) + 1}), "one range per expert");
  }
};

FULGUR_DECLARE_OPERATOR(route_rows, RouteRows)

}  // namespace fulgur

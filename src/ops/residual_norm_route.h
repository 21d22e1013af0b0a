// Where a branch joins the residual stream before a router: residual_norm, and route_rows of its y. The bits are those
// of the two.
#pragma once
#include "ops/residual_norm.h"
#include "ops/route_rows.h"

namespace fulgur {

struct ResidualNormRoute {
  ResidualNorm join;
  RouteRows route;  // but for its x, which is join.y

  RouteRows routing() const {
    RouteRows op = route;
    op.x = join.y;
    return op;
  }

  auto operands() const {
    const std::tuple of_route{out(route.sorted_rows), out(route.place),         out(route.expert_begin),
                              out(route.expert_ids),  out(route.weights),       out(route.logits),
                              in(route.router),       out(route.probabilities), out(route.log_sum_exp),
                              out(route.entropy),     out(route.choices)};
    return std::tuple_cat(of_route, join.operands());
  }
  Products products() const { return routing().products(); }
  void check() const {
    expect(!route.x, "the router reads the norm");
    join.check(), routing().check();
  }
};

FULGUR_DECLARE_OPERATOR(residual_norm_route, ResidualNormRoute)

}  // namespace fulgur

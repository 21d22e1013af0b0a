// Rows as a router and a text leave them: which experts a token takes, and which tokens there are.
#pragma once
#include <cstdint>
#include <vector>

namespace fulgur::bench {

// Two experts a token, drawn as the two highest of noise plus an expert's own bias; nothing is dropped.
struct Routing {
  std::vector<int32_t> place;  // [rows, 2]: where each choice lies when choices are grouped by expert
  std::vector<int32_t> taken;  // [rows * 2]: whose row lies there
  std::vector<int32_t> begin;  // [experts + 1]: where an expert's choices begin
};
Routing draw_routing(int64_t rows, int64_t experts);

// Token numbers whose frequencies fall as 1 / (1 + number), as those of a text do.
std::vector<int32_t> draw_tokens(int64_t rows, int64_t vocabulary);

}  // namespace fulgur::bench

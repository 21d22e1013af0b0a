// plan_rows: the order of a cycle of rows that keeps every source close to its share, by the earliest deadline.
#pragma once
#include <cstdint>
#include <vector>

namespace fulgur {

constexpr int64_t kRowUnit = int64_t(1) << 40;  // parts of a row: integers, so that an order is the same everywhere

struct RowPlan {
  std::vector<int64_t> shares;             // of each source, in parts of a row; their sum is one row
  std::vector<int64_t> owed;               // to each source before the first row
  std::vector<std::vector<int64_t>> past;  // what was owed after each of the rows before, the last `length` at most
  int64_t length = 0;                      // rows to plan
};

// The source of each row. In all of them each source has `length` times its share, rounded down or up. After every row
// what a source is owed differs from what it was `length` rows before by the least bound that an order exists for, from
// one row on in steps of a sixteenth; under that bound as little is owed as can be. A source without a share has no
// row.
std::vector<int32_t> plan_rows(const RowPlan& plan);

}  // namespace fulgur

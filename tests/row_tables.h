// What the tests of the row primitives share: the tables of every instruction set that this CPU has, and random rows.
#pragma once
#include <cstring>
#include <vector>

#include "base/random.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/simd_table.h"

namespace fulgur::cpu {

struct Named {
  const char* name;
  const RowTables* tables;
};

inline std::vector<Named> available_tables() {
  std::vector<Named> all;
  const auto add = [&](Isa isa, const RowTables* tables) {
    if (has(isa) && tables != nullptr) all.push_back({name_of(isa), tables});
  };
  add(Isa::generic, row_tables_generic());
  add(Isa::avx2, row_tables_avx2());
  add(Isa::avx512, row_tables_avx512());
  return all;
}

template <class T>
std::vector<T> random_row(int64_t n, uint64_t seed, double spread = 4) {
  std::vector<T> row(static_cast<size_t>(n));
  for (size_t i = 0; i < row.size(); ++i) row[i] = T(spread * (2 * unit_interval(philox(seed, i, 0)[0]) - 1));
  return row;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace fulgur::cpu

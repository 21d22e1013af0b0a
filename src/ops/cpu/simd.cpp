#include "ops/cpu/simd.h"

#include "ops/cpu/isa.h"

namespace fulgur::cpu {
namespace {

const RowTables& picked() {
  switch (isa()) {
    case Isa::amx:
    case Isa::avx512: return *row_tables_avx512();
    case Isa::avx2: return *row_tables_avx2();
    case Isa::neon:
    case Isa::generic: break;
  }
  return *row_tables_generic();
}

}  // namespace

const RowTables& row_tables() {
  static const RowTables& kept = picked();
  return kept;
}

}  // namespace fulgur::cpu

// The row primitives in vectors of 32 bytes.
#include "ops/cpu/simd_table.h"
#if defined(__AVX2__)
#include "ops/cpu/simd_body.h"

namespace fulgur::cpu {

const RowTables* row_tables_avx2() { return &kRowTables<32>; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const RowTables* row_tables_avx2() { return nullptr; }

}  // namespace fulgur::cpu
#endif

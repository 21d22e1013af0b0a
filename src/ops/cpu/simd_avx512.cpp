// The row primitives in vectors of 64 bytes.
#include "ops/cpu/simd_table.h"
#if defined(__AVX512F__)
#include "ops/cpu/simd_body.h"

namespace fulgur::cpu {

const RowTables* row_tables_avx512() { return &kRowTables<64>; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const RowTables* row_tables_avx512() { return nullptr; }

}  // namespace fulgur::cpu
#endif

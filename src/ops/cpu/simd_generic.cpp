// The row primitives in vectors of 16 bytes, which every 64-bit machine has: on aarch64 these are NEON's.
#include "ops/cpu/simd_body.h"

namespace fulgur::cpu {

const RowTables* row_tables_generic() { return &kRowTables<16>; }

}  // namespace fulgur::cpu

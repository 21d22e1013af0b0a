// The operators that work row by row.
#include "bench/cuda/lines.h"

namespace fulgur::bench {

std::vector<Line> row_lines() { return {}; }

}  // namespace fulgur::bench

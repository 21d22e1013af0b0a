// A build without CUDA: no profiler of NVIDIA's looks at it.
#include "device/profiler_range.h"

namespace fulgur {

ProfilerRange::ProfilerRange(const char*) {}
ProfilerRange::ProfilerRange(const char*, int64_t) {}
ProfilerRange::~ProfilerRange() {}  // NOLINT(modernize-use-equals-default): a build with CUDA has another

}  // namespace fulgur

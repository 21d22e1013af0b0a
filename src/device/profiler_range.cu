#include <nvtx3/nvToolsExt.h>

#include <cstdio>

#include "device/profiler_range.h"

namespace fulgur {

ProfilerRange::ProfilerRange(const char* name) { nvtxRangePushA(name); }

ProfilerRange::ProfilerRange(const char* name, int64_t number) {
  char text[64];
  std::snprintf(text, sizeof text, "%s %lld", name, static_cast<long long>(number));
  nvtxRangePushA(text);
}

ProfilerRange::~ProfilerRange() { nvtxRangePop(); }

}  // namespace fulgur

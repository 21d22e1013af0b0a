// ProfilerRange: a named stretch of the host's part of the work, as NVIDIA's profilers show it (Nsight Systems: NVTX).
// Without a profiler it costs next to nothing, in a build without CUDA it is nothing.
#pragma once
#include <cstdint>

namespace fulgur {

class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name);
  ProfilerRange(const char* name, int64_t number);  // "layer 7"
  ~ProfilerRange();
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

}  // namespace fulgur

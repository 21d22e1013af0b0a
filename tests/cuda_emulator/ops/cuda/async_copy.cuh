// Stands in for src/ops/cuda/async_copy.cuh (emulator.h): copies arrive as late as they may, when they are waited for.
#pragma once
#include <map>
#include <vector>

#include "tests/cuda_emulator/cuda_runtime.h"

namespace fulgur::cuda {

struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
};
// Of each thread of the blocks that run.
inline std::map<std::pair<unsigned, unsigned>, std::vector<PendingCopy>>& pending_copies() {
  static std::map<std::pair<unsigned, unsigned>, std::vector<PendingCopy>> all;
  return all;
}

inline void copy_async(void* to, const void* from, bool there) {
  if (uintptr_t(to) % 16 != 0 || (there && uintptr_t(from) % 16 != 0)) emulator::complain("an unaligned copy");
  pending_copies()[{blockIdx.x, emulator::thread_number()}].push_back({to, there ? from : nullptr});
}
inline void wait_for_copies() {
  std::vector<PendingCopy>& copies = pending_copies()[{blockIdx.x, emulator::thread_number()}];
  for (const PendingCopy& copy : copies) {
    if (copy.from) std::memcpy(copy.to, copy.from, 16);
    else std::memset(copy.to, 0, 16);
  }
  copies.clear();
}

}  // namespace fulgur::cuda

// Stands in for src/ops/cuda/async_copy.cuh (emulator.h): copies arrive as late as they may, when they are waited for.
#pragma once
#include <map>
#include <vector>

#include "tests/cuda_emulator/cuda_runtime.h"

namespace fulgur::cuda {

struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  int group;
};
struct PendingCopies {
  std::vector<PendingCopy> all;
  int groups = 0;  // that have ended

  void run(int groups_to_run) {
    std::erase_if(all, [&](const PendingCopy& copy) {
      if (copy.group >= groups_to_run) return false;
      if (copy.from) std::memcpy(copy.to, copy.from, 16);
      else std::memset(copy.to, 0, 16);
      return true;
    });
  }
};
// Of each thread of the blocks that run.
inline PendingCopies& pending_copies() {
  static std::map<std::pair<unsigned, unsigned>, PendingCopies> all;
  return all[{blockIdx.x, emulator::thread_number()}];
}

inline void copy_async(void* to, const void* from, bool there) {
  if (uintptr_t(to) % 16 != 0 || (there && uintptr_t(from) % 16 != 0)) emulator::complain("an unaligned copy");
  PendingCopies& copies = pending_copies();
  copies.all.push_back({to, there ? from : nullptr, copies.groups});
}
inline void wait_for_copies() { pending_copies().run(pending_copies().groups + 1); }
inline void end_group() { ++pending_copies().groups; }
template <int kGroups>
void wait_for_groups_but() {
  pending_copies().run(pending_copies().groups - kGroups);
}

}  // namespace fulgur::cuda

// Stands in for src/ops/cuda/async_copy.cuh (emulator.h): copies arrive as late as they may, when they are waited for.
#pragma once
#include <deque>
#include <map>
#include <vector>

#include "tests/cuda_emulator/cuda_runtime.h"

namespace fulgur::cuda {

struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
};
struct PendingCopies {
  std::vector<PendingCopy> open;                // in no group yet
  std::deque<std::vector<PendingCopy>> groups;  // the oldest first
};
inline void complete(const PendingCopy& copy) {
  if (copy.from) std::memcpy(copy.to, copy.from, 16);
  else std::memset(copy.to, 0, 16);
}
// Of each thread of the blocks that run.
inline PendingCopies& pending_copies() {
  static std::map<std::pair<unsigned, unsigned>, PendingCopies> all;
  return all[{blockIdx.x, emulator::thread_number()}];
}

inline void copy_async(void* to, const void* from, bool there) {
  if (uintptr_t(to) % 16 != 0 || (there && uintptr_t(from) % 16 != 0)) emulator::complain("an unaligned copy");
  pending_copies().open.push_back({to, there ? from : nullptr});
}
inline void commit_copies() {
  PendingCopies& copies = pending_copies();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}
template <int kPending>
void wait_for_copies() {
  for (PendingCopies& copies = pending_copies(); copies.groups.size() > kPending; copies.groups.pop_front())
    for (const PendingCopy& copy : copies.groups.front()) complete(copy);
}
template <class T>
void settle(T*&) {}
inline void wait_for_copies() { commit_copies(), wait_for_copies<0>(); }

}  // namespace fulgur::cuda

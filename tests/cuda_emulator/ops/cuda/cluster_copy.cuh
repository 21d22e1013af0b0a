// Stands in for src/ops/cuda/cluster_copy.cuh (emulator.h): a copy runs as late as it may, when its bytes alone are
// missing where its barrier is waited for.
#pragma once
#include <cstring>
#include <functional>
#include <vector>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda {

inline constexpr uint32_t kRankAt = 24;  // the bit of an address from which on it names a block of the cluster
inline std::byte* place_of(uint32_t there) {
  return emulator::shared_memory_of(there >> kRankAt) + (there & ((1U << kRankAt) - 1));
}
inline uint32_t address_in(uint32_t rank, uint32_t address) { return rank << kRankAt | address; }

struct CopyThere {
  std::function<void()> run;
  int bytes;
  SharedBarrier* barrier;
};
inline std::vector<CopyThere>& copies_on_their_way() {
  static std::vector<CopyThere> all;
  return all;
}
inline void copy_there(uint32_t to_there, uint32_t from, int bytes, uint32_t barrier_there) {
  if (to_there % 16 != 0 || from % 16 != 0 || bytes % 16 != 0) emulator::complain("an unaligned copy");
  std::byte *const to = place_of(to_there), *const source = emulator::shared_memory() + from;
  copies_on_their_way().push_back({[=] { std::memcpy(to, source, size_t(bytes)); }, bytes,
                                   reinterpret_cast<SharedBarrier*>(place_of(barrier_there))});
}
inline void copy_here(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  if (to % 16 != 0 || uintptr_t(from) % 16 != 0 || bytes % 16 != 0) emulator::complain("an unaligned copy");
  std::byte* const here = emulator::shared_memory() + to;
  copies_on_their_way().push_back({[=] { std::memcpy(here, from, size_t(bytes)); }, bytes, &barrier_at(barrier)});
}
inline void store_there(uint32_t to_there, float number, uint32_t barrier_there) {
  std::byte* const to = place_of(to_there);
  copies_on_their_way().push_back({[=] { std::memcpy(to, &number, sizeof number); }, int(sizeof number),
                                   reinterpret_cast<SharedBarrier*>(place_of(barrier_there))});
}
inline void run_copies(SharedBarrier& barrier) {
  std::erase_if(copies_on_their_way(), [&](const CopyThere& copy) {
    if (copy.barrier != &barrier) return false;
    copy.run();
    barrier.bytes -= copy.bytes;
    return true;
  });
  end_phase(barrier);
}

inline void barrier_arrive_expecting(uint32_t barrier, int bytes) {
  barrier_at(barrier).bytes += bytes;
  barrier_arrive(barrier);
}
// The thread's copies so far count as bytes of the phase.
inline void arrive_with_copies(uint32_t barrier) {
  PendingCopies& copies = pending_copies();
  if (!copies.groups.empty()) emulator::complain("copies that are waited for in two ways");
  for (const PendingCopy& copy : copies.open)
    copies_on_their_way().push_back({[=] { complete(copy); }, 16, &barrier_at(barrier)});
  barrier_arrive_expecting(barrier, int(16 * copies.open.size()));
  copies.open.clear();
}
inline void barrier_arrive_there(uint32_t barrier_there) {
  arrive(*reinterpret_cast<SharedBarrier*>(place_of(barrier_there)));
}
inline void barrier_wait_for_copies(uint32_t barrier, uint32_t parity) {
  SharedBarrier& b = barrier_at(barrier);
  while (b.phase % 2 == parity) {
    if (b.missing == 0) run_copies(b);
    if (b.phase % 2 == parity) emulator::yield();
  }
}

}  // namespace fulgur::cuda

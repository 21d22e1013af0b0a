// Stands in for src/ops/cuda/cluster_copy.cuh (emulator.h): copies run late, as ops/cuda/hopper.cuh has it.
#pragma once
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda {

inline constexpr uint32_t kRankAt = 24;  // the bit of an address from which on it names a block of the cluster
inline std::byte* place_of(uint32_t there) {
  return emulator::shared_memory_of(there >> kRankAt) + (there & ((1U << kRankAt) - 1));
}
inline SharedBarrier* barrier_there_at(uint32_t there) { return reinterpret_cast<SharedBarrier*>(place_of(there)); }

inline uint32_t address_in(uint32_t rank, uint32_t address) { return rank << kRankAt | address; }
inline void barrier_arrive_expecting(uint32_t barrier, int bytes) {
  barrier_at(barrier).bytes += bytes;
  barrier_arrive(barrier);
}
inline void barrier_arrive_there(uint32_t barrier_there) { arrive(*barrier_there_at(barrier_there)); }
inline void copy_there(uint32_t to_there, uint32_t from, int bytes, uint32_t barrier_there) {
  if (to_there % 16 != 0 || from % 16 != 0 || bytes % 16 != 0) emulator::complain("an unaligned copy");
  copies_on_their_way().push_back(
      {place_of(to_there), emulator::shared_memory() + from, bytes, 0, barrier_there_at(barrier_there)});
}
inline void store_there(uint32_t to_there, float number, uint32_t barrier_there) {
  copies_on_their_way().push_back(
      {place_of(to_there), nullptr, sizeof number, number, barrier_there_at(barrier_there)});
}

}  // namespace fulgur::cuda

// What the thread blocks of a cluster do in each other's shared memory beside plain stores: copies that run on their
// own and report their bytes to a barrier, and arrivals (PTX ISA, "cp.async.bulk", "mbarrier").
#pragma once
#include <cstdint>

#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda {

// The address, for the functions below, of what block `rank` of the cluster has at a shared address of this block.
__device__ inline uint32_t address_in(uint32_t rank, uint32_t address) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

// Arrives, and lets the phase end only after as many bytes have been copied as are announced for it.
__device__ inline void barrier_arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Orders nothing but what the thread's products have read: ordinary stores before it are not seen by who waits.
__device__ inline void barrier_arrive_there(uint32_t barrier_there) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier_there) : "memory");
}
// Waits for a phase with copies.
__device__ inline void barrier_wait_for_copies(uint32_t barrier, uint32_t parity) { barrier_wait(barrier, parity); }
// `bytes` from a shared address of this block; addresses and bytes are multiples of 16. Both blocks leave them alone
// until the barrier's phase has ended.
__device__ inline void copy_there(uint32_t to_there, uint32_t from, int bytes, uint32_t barrier_there) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to_there),
      "r"(from), "r"(bytes), "r"(barrier_there)
      : "memory");
}
// The same from memory to a shared address of this block.
__device__ inline void copy_here(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// Arrives at a barrier of this block once all that the thread has copied with copy_async so far is there.
__device__ inline void arrive_with_copies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// One number, which counts as four bytes copied.
__device__ inline void store_there(uint32_t to_there, float number, uint32_t barrier_there) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to_there),
               "r"(__float_as_uint(number)), "r"(barrier_there)
               : "memory");
}

}  // namespace fulgur::cuda

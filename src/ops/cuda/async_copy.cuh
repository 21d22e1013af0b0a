// Copies from global to shared memory that run beside computation (cp.async).
#pragma once
#include <cstdint>

namespace fulgur::cuda {

// 16 bytes, both addresses multiples of 16; zeros where the source is not `there`, which then is not read.
__device__ inline void copy_async(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(to))), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

// Waits for the calling thread's own copies; others see them after a barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Ends a group of the calling thread's copies; waits until all but its last kGroups groups have arrived.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ inline void wait_for_groups_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace fulgur::cuda

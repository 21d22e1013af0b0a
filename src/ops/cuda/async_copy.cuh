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

// The calling thread's copies since the last group become one.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for the calling thread's own copies, or for its groups of copies but the last kPending; others see them after a
// barrier.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// The compiler computes the address where this stands: before a wait, not after it.
template <class T>
__device__ inline void settle(T*& address) {
  asm volatile("" : "+l"(address)::"memory");
}

}  // namespace fulgur::cuda

// Runs CUDA kernels on the CPU, so that a machine without a GPU tests the CUDA twins: every thread of a cluster is a
// fiber, fibers change at barriers and exchanges only, warps take turns in a changing order. What it finds: wrong
// indices, missing or mismatched barriers, reads of shared memory that nobody wrote (it begins as NaN), writes outside
// of operands (ops/case_stream.h). What it cannot find: races between barriers, and what the hardware's own products
// round.
//
// The headers beside this one stand in for those that only nvcc understands: CUDA's run time, the launch, and the few
// files of ops/cuda that hold PTX.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fulgur::emulator {

struct Launch {
  dim3 blocks, threads;
  size_t shared_bytes;
  unsigned cluster;  // thread blocks side by side that run together
  bool follows;      // each thread is to call await_previous
};

// Ends the program with the reason where a launch or a barrier is wrong.
void run(const Launch& launch, const std::function<void()>& kernel);

// What a stream is given: done at once, or kept for the graph that is captured. One stream captures at a time.
using Work = std::function<void()>;
void submit(Work work);
void begin_capture();
std::vector<Work> end_capture();
bool capturing();

// What a running thread may ask for.
inline unsigned thread_number() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
std::byte* shared_memory();                  // of the thread's block, at a multiple of 1,024 bytes
std::byte* shared_memory_of(unsigned rank);  // of a block of its cluster
void yield();                                // others go on first
void block_barrier();
void named_barrier(int id, unsigned threads);
void named_barrier_arrive(int id, unsigned threads);
void warp_barrier();
void cluster_arrive();
void cluster_wait();
void await_previous();
// 64 bytes of each lane that its warp can read; between two warp_barrier.
void* warp_slot(unsigned lane);
[[noreturn]] void complain(const char* what);

}  // namespace fulgur::emulator

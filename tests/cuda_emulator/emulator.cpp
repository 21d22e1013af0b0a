#include "tests/cuda_emulator/emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fulgur::emulator {
namespace {

constexpr size_t kStack = 128 << 10, kSlot = 64;
constexpr unsigned kLanes = 32, kMostThreads = 1024, kMostShared = 232448;

// Waits for a number of threads; those that have ended no longer count.
struct Barrier {
  unsigned waiting = 0;
  uint64_t generation = 0;
};

struct Block {
  std::vector<std::byte> memory;
  std::vector<std::byte> slots;
  Barrier all;
  std::vector<Barrier> warps;
  std::map<int, Barrier> named;
  unsigned alive = 0;
  std::vector<unsigned> lanes_alive;

  std::byte* shared() { return memory.data() + (1024 - uintptr_t(memory.data()) % 1024) % 1024; }
};

// Its first steps are taken by setcontext; from then on it is left and entered by _longjmp, which asks nothing of the
// kernel.
struct Fiber {
  ucontext_t context{};
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<char[]> stack{new char[kStack]};
  dim3 thread, block;
  unsigned rank = 0;       // its block in the cluster
  bool arrived = false;    // at the cluster's barrier, and not yet through
  uint64_t leaves_at = 0;  // the generation that lets it through
  bool awaited = false;    // the kernels before
  bool done = false;
};

jmp_buf home;
std::vector<Fiber> fibers;
std::vector<Block> blocks;
Barrier cluster;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;
bool follows = false;
uint32_t order = 1;  // of warps, by a generator of its own

Block& block() { return blocks[current->rank]; }
unsigned warp() { return thread_number() / kLanes; }

void arrive_at(Barrier& barrier, unsigned threads) {
  if (++barrier.waiting >= threads) barrier.waiting = 0, ++barrier.generation;
}

void wait_at(Barrier& barrier, unsigned threads) {
  const uint64_t generation = barrier.generation;
  arrive_at(barrier, threads);
  while (barrier.generation == generation) yield();
}

void entry() {
  (*body)();
  if (current->arrived) complain("a thread ended between the halves of its cluster's barrier");
  if (follows && !current->awaited) complain("a thread that follows ended without waiting for the kernels before");
  Block& b = block();
  current->done = true;
  --b.alive, --b.lanes_alive[warp()];
  if (b.all.waiting > 0 && b.all.waiting >= b.alive) b.all.waiting = 0, ++b.all.generation;
  _longjmp(home, 1);
}

void resume(Fiber& fiber) {
  current = &fiber, threadIdx = fiber.thread, blockIdx = fiber.block;
  if (_setjmp(home) != 0) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

void prepare(const Launch& launch, unsigned first_block) {
  const unsigned threads = launch.threads.x * launch.threads.y * launch.threads.z;
  blocks.assign(launch.cluster, {});
  cluster = {};
  for (Block& b : blocks) {
    b.memory.assign(launch.shared_bytes + 1024, std::byte{0xff});
    b.slots.assign((threads + kLanes - 1) / kLanes * kLanes * kSlot, std::byte{0xff});
    b.warps.resize((threads + kLanes - 1) / kLanes), b.alive = threads;
    for (unsigned left = threads; left > 0; left -= left < kLanes ? left : kLanes)
      b.lanes_alive.push_back(left < kLanes ? left : kLanes);
  }
  if (fibers.size() < size_t(threads) * launch.cluster) fibers.resize(size_t(threads) * launch.cluster);
  for (unsigned i = 0; i < threads * launch.cluster; ++i) {
    Fiber& f = fibers[i];
    const unsigned t = i % threads, number = first_block + i / threads;
    f.thread =
        dim3(t % launch.threads.x, t / launch.threads.x % launch.threads.y, t / launch.threads.x / launch.threads.y);
    f.block = dim3(number % launch.blocks.x, number / launch.blocks.x % launch.blocks.y,
                   number / launch.blocks.x / launch.blocks.y);
    f.rank = i / threads, f.arrived = f.awaited = f.done = f.begun = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack, f.context.uc_link = nullptr;
    makecontext(&f.context, entry, 0);
  }
}

// Warps begin at a changing place, go up or down, and some sit out a round: a missing barrier shows.
void run_cluster(unsigned count) {
  for (unsigned left = count; left > 0;) {
    left = 0;
    order = order * 1664525U + 1013904223U;
    const unsigned start = (order >> 8) % count, skipped = (order >> 4) % 5;
    for (unsigned k = 0; k < count; ++k) {
      const unsigned i = order >> 31 ? (start + count - k) % count : (start + k) % count;
      if (fibers[i].done) continue;
      ++left;
      if (skipped == 0 || (i / kLanes + order) % 5 != skipped) resume(fibers[i]);
    }
  }
}

}  // namespace

void complain(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  std::abort();
}

void run(const Launch& launch, const std::function<void()>& kernel) {
  const unsigned threads = launch.threads.x * launch.threads.y * launch.threads.z;
  const uint64_t count = uint64_t(launch.blocks.x) * launch.blocks.y * launch.blocks.z;
  if (threads == 0 || threads > kMostThreads || count == 0) complain("a launch of no or too many threads");
  if (launch.blocks.y > 65535 || launch.blocks.z > 65535) complain("a grid of too many rows");
  if (launch.shared_bytes > kMostShared) complain("too much shared memory");
  if (launch.blocks.x % launch.cluster != 0) complain("a grid that clusters do not divide");
  body = &kernel, follows = launch.follows, blockDim = launch.threads, gridDim = launch.blocks;
  for (uint64_t first = 0; first < count; first += launch.cluster) {
    prepare(launch, unsigned(first));
    run_cluster(threads * launch.cluster);
    for (const Block& b : blocks)
      if (b.all.waiting > 0) complain("threads ended while others wait at a barrier");
    if (cluster.waiting > 0) complain("threads ended while others wait for the cluster");
  }
}

namespace {

bool captures = false;
std::vector<Work> captured;

}  // namespace

void submit(Work work) {
  if (captures) captured.push_back(std::move(work));
  else work();
}

void begin_capture() {
  if (captures) complain("a capture inside a capture");
  captures = true;
}

std::vector<Work> end_capture() {
  captures = false;
  return std::exchange(captured, {});
}

bool capturing() { return captures; }

std::byte* shared_memory() { return block().shared(); }
std::byte* shared_memory_of(unsigned rank) { return blocks.at(rank).shared(); }
void yield() {
  if (_setjmp(current->place) == 0) _longjmp(home, 1);
}
void block_barrier() { wait_at(block().all, block().alive); }
void named_barrier(int id, unsigned threads) { wait_at(block().named[id], threads); }
void named_barrier_arrive(int id, unsigned threads) { arrive_at(block().named[id], threads); }
void warp_barrier() { wait_at(block().warps[warp()], block().lanes_alive[warp()]); }

void cluster_arrive() {
  if (current->arrived) complain("a thread arrives twice at its cluster's barrier");
  current->arrived = true, current->leaves_at = cluster.generation + 1;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z * unsigned(blocks.size());
  if (++cluster.waiting == threads) cluster.waiting = 0, ++cluster.generation;
}
void cluster_wait() {
  if (!current->arrived) complain("a thread waits for its cluster without arriving");
  while (cluster.generation < current->leaves_at) yield();
  current->arrived = false;
}

void await_previous() { current->awaited = true; }

void* warp_slot(unsigned lane) { return block().slots.data() + (size_t(warp()) * kLanes + lane) * kSlot; }

}  // namespace fulgur::emulator

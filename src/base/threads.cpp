#include "base/threads.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace fulgur {
namespace {

constexpr int kSpins = 2000;  // about 50 microseconds before a waiting thread sleeps

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

// A round is published by raising `round`; a worker takes items until none is left and then counts itself out of
// `busy`. Who waits spins briefly, then sleeps on the condition variable.
struct Threads::Pool {
  std::mutex mutex;
  std::condition_variable start, done;
  std::vector<std::thread> workers;
  const void* body = nullptr;
  Call call = nullptr;
  int64_t items = 0;
  std::atomic<int64_t> next = 0;
  std::atomic<int> busy = 0;
  std::atomic<uint64_t> round = 0;
  std::atomic<bool> stop = false;

  void work() noexcept {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items;) call(body, i);
  }

  void await_round(uint64_t seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (round.load(std::memory_order_acquire) != seen || stop.load(std::memory_order_acquire)) return;
      pause();
    }
    std::unique_lock lock(mutex);
    start.wait(lock, [&] { return stop.load() || round.load() != seen; });
  }

  void serve() noexcept {
    for (uint64_t seen = 0;; ++seen) {
      await_round(seen);
      if (stop.load()) return;
      work();
      if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(mutex);
        done.notify_one();
      }
    }
  }

  void await_done() {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (busy.load(std::memory_order_acquire) == 0) return;
      pause();
    }
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return busy.load() == 0; });
  }
};

Threads::Threads(int count) : count_(count < 1 ? 1 : count), pool_(new Pool) {
  for (int i = 1; i < count_; ++i) pool_->workers.emplace_back([this] { pool_->serve(); });
}

Threads::~Threads() {
  {
    const std::lock_guard lock(pool_->mutex);
    pool_->stop = true;
  }
  pool_->start.notify_all();
  for (std::thread& worker : pool_->workers) worker.join();
  delete pool_;
}

void Threads::run(int64_t items, const void* body, Call call) noexcept {
  Pool& p = *pool_;
  if (items <= 1 || p.workers.empty()) {
    for (int64_t i = 0; i < items; ++i) call(body, i);
    return;
  }
  p.body = body, p.call = call, p.items = items;
  p.next.store(0, std::memory_order_relaxed);
  p.busy.store(int(p.workers.size()), std::memory_order_relaxed);
  {
    const std::lock_guard lock(p.mutex);
    p.round.fetch_add(1, std::memory_order_release);
  }
  p.start.notify_all();
  p.work();
  p.await_done();
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

}  // namespace fulgur

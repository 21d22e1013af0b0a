#include "bench/machine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "bench/timing.h"
#include "device/buffer.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kPiece = int64_t(1) << 20;  // bytes that a thread takes at a time
constexpr int64_t kLeastCache = int64_t(32) << 20, kMostCache = int64_t(256) << 20;

// Eight running sums, so that loads and not one chain of additions decide the time.
uint64_t sum_of(const std::byte* bytes, int64_t size) {
  uint64_t lane[8] = {}, word[8];
  for (int64_t i = 0; i + int64_t(sizeof word) <= size; i += int64_t(sizeof word)) {
    std::memcpy(word, bytes + i, sizeof word);
    for (int j = 0; j < 8; ++j) lane[j] += word[j];
  }
  return lane[0] + lane[1] + lane[2] + lane[3] + lane[4] + lane[5] + lane[6] + lane[7];
}

template <class Pass>
double fastest_pass(double least_seconds, const Pass& pass) {
  const auto nothing = [](int) {};
  return fastest(
      least_seconds, nothing, [&](int) { pass(); }, nothing);
}

}  // namespace

int64_t cache_bytes() { return std::clamp<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), kLeastCache, kMostCache); }

MemoryRates measured_memory_rates(Threads& threads, double seconds) {
  const int64_t bytes = 2 * cache_bytes();
  const Buffer from(size_t(bytes), Purpose::workspace), to(size_t(bytes), Purpose::workspace);
  const auto pieces = [&](const auto& body) {
    threads.for_ranges(bytes, kPiece, [&](int64_t begin, int64_t end) { body(begin, end - begin); });
  };
  pieces([&](int64_t at, int64_t size) { std::memset(from.data() + at, int(at >> 20) | 1, size_t(size)); });
  pieces([&](int64_t at, int64_t size) { std::memset(to.data() + at, 0, size_t(size)); });
  std::atomic<uint64_t> sum = 0;
  const double copied = fastest_pass(seconds, [&] {
    pieces([&](int64_t at, int64_t size) { std::memcpy(to.data() + at, from.data() + at, size_t(size)); });
  });
  const double read = fastest_pass(seconds, [&] {
    pieces([&](int64_t at, int64_t size) { sum.fetch_add(sum_of(to.data() + at, size), std::memory_order_relaxed); });
  });
  expect(sum.load() != 0, "what was copied is there");
  return {.copy = 2 * double(bytes) / copied, .read = double(bytes) / read};
}

}  // namespace fulgur::bench

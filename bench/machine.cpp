#include "bench/machine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "bench/timing.h"
#include "device/buffer.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kPiece = int64_t(1) << 20;  // bytes that a thread takes at a time
constexpr int kWindows = 16;                  // parts of the buffers, one a pass: a short pass meets a quiet moment
constexpr int64_t kLeastCache = int64_t(32) << 20, kMostCache = int64_t(256) << 20;

// Two running sums of eight words, which fit the registers of every processor: loads and not additions decide the time.
uint64_t sum_of(const std::byte* bytes, int64_t size) {
  using Words = uint64_t __attribute__((vector_size(64), may_alias, aligned(8)));
  const Words* word = reinterpret_cast<const Words*>(bytes);
  Words even = {}, odd = {};
  for (int64_t i = 0; i + 2 <= size / int64_t(sizeof(Words)); i += 2) even += word[i], odd += word[i + 1];
  const Words all = even + odd;
  return all[0] + all[1] + all[2] + all[3] + all[4] + all[5] + all[6] + all[7];
}

// A copy whose stores pass the caches by: a plain store first reads the line that it overwrites, unless memcpy was
// built to know better for this size and machine.
void copy_past_caches(std::byte* to, const std::byte* from, int64_t size) {
#if defined(__x86_64__)
  const auto* const word = reinterpret_cast<const __m128i*>(from);
  auto* const out = reinterpret_cast<__m128i*>(to);
  for (int64_t i = 0; i < size / int64_t(sizeof(__m128i)); ++i) _mm_stream_si128(out + i, _mm_loadu_si128(word + i));
  _mm_sfence();
#else
  std::memcpy(to, from, size_t(size));
#endif
}

}  // namespace

int64_t cache_bytes() { return std::clamp<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), kLeastCache, kMostCache); }

MemoryRates measured_memory_rates(Threads& threads, double seconds) {
  const int64_t bytes = 2 * cache_bytes(), window = bytes / kWindows;
  const Buffer from(size_t(bytes), Purpose::workspace), to(size_t(bytes), Purpose::workspace);
  // body(at, size) over all windows, or over those of pass i.
  const auto pieces = [&](int64_t first, int64_t size, const auto& body) {
    threads.for_ranges(size, kPiece, [&](int64_t begin, int64_t end) { body(first + begin, end - begin); });
  };
  const auto timed = [&](const auto& body) {
    const auto nothing = [](int) {};
    return double(window) / fastest(
                                seconds, nothing, [&](int i) { pieces(i % kWindows * window, window, body); }, nothing);
  };
  pieces(0, bytes, [&](int64_t at, int64_t size) { std::memset(from.data() + at, int(at >> 20) | 1, size_t(size)); });
  pieces(0, bytes, [&](int64_t at, int64_t size) { std::memset(to.data() + at, 1, size_t(size)); });
  std::atomic<uint64_t> sum = 0;
  const double copied =
      timed([&](int64_t at, int64_t size) { std::memcpy(to.data() + at, from.data() + at, size_t(size)); });
  const double streamed =
      timed([&](int64_t at, int64_t size) { copy_past_caches(to.data() + at, from.data() + at, size); });
  const double read =
      timed([&](int64_t at, int64_t size) { sum.fetch_add(sum_of(to.data() + at, size), std::memory_order_relaxed); });
  expect(sum.load() != 0, "what was copied is there");
  return {.copy = 2 * std::max(copied, streamed), .read = read};
}

}  // namespace fulgur::bench

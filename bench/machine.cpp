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

// Four running sums, so that loads and not a chain of additions decide the time.
uint64_t sum_of(const std::byte* bytes, int64_t size) {
#if defined(__x86_64__)
  const auto* const word = reinterpret_cast<const __m128i*>(bytes);
  __m128i sum[4] = {};
  for (int64_t i = 0; i + 4 <= size / int64_t(sizeof(__m128i)); i += 4)
    for (int j = 0; j < 4; ++j) sum[j] = _mm_add_epi64(sum[j], _mm_loadu_si128(word + i + j));
  const __m128i all = _mm_add_epi64(_mm_add_epi64(sum[0], sum[1]), _mm_add_epi64(sum[2], sum[3]));
  return uint64_t(_mm_cvtsi128_si64(all)) + uint64_t(_mm_cvtsi128_si64(_mm_unpackhi_epi64(all, all)));
#else
  const auto* const word = reinterpret_cast<const uint64_t*>(bytes);
  uint64_t sum[4] = {};
  for (int64_t i = 0; i + 4 <= size / int64_t(sizeof(uint64_t)); i += 4)
    for (int j = 0; j < 4; ++j) sum[j] += word[i + j];
  return sum[0] + sum[1] + sum[2] + sum[3];
#endif
}

// The same in many places at once, each asked for ahead of time: as a decode step reads rows of weights.
uint64_t sum_of_streams(const std::byte* bytes, int64_t size) {
  constexpr int64_t kStreams = 32, kLine = 64, kAhead = 8 * kLine;
  const int64_t stream =
      ((size / kStreams / kLine - 1) | 1) * kLine;  // an odd number of lines: no two streams in one set
  uint64_t sum = 0;
  for (int64_t at = 0; at < stream; at += kLine)
    for (int64_t s = 0; s < kStreams; ++s) {
      __builtin_prefetch(bytes + s * stream + at + kAhead);
      sum += sum_of(bytes + s * stream + at, kLine);
    }
  return sum;
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

MemoryRates measured_memory_rates(Threads& threads, double seconds, int64_t bytes) {
  const int64_t window = bytes / kWindows;
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
  const auto read_by = [&](uint64_t (*sum_up)(const std::byte*, int64_t)) {
    return timed(
        [&](int64_t at, int64_t size) { sum.fetch_add(sum_up(to.data() + at, size), std::memory_order_relaxed); });
  };
  const double in_order = read_by(sum_of), in_streams = read_by(sum_of_streams);
  expect(sum.load() != 0, "what was copied is there");
  return {.copy = 2 * std::max(copied, streamed), .read = std::max(in_order, in_streams)};
}

}  // namespace fulgur::bench

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
#include "device/stream.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kPiece = int64_t(1) << 20;  // bytes that a thread takes at a time
constexpr int kWindows = 16;                  // parts of the buffers, one a pass: a short pass meets a quiet moment
constexpr int64_t kLeastCache = int64_t(32) << 20, kMostCache = int64_t(256) << 20;

// A number of every line, in kStreams places at once, each line asked for kAhead bytes before its turn. Memory moves
// whole lines, and the less is done with each, the more of them are on their way: adding up every byte of a line reads
// slower than a product of few rows on AMX.
template <int64_t kStreams, int64_t kAhead>
uint64_t sum_of_lines(const std::byte* bytes, int64_t size) {
  constexpr int64_t kLine = 64;
  const int64_t lines = size / kStreams / kLine, stream = ((lines - 1) | 1) * kLine;  // odd: no two in one set
  uint64_t sum = 0, word = 0;
  for (int64_t at = 0; at < stream; at += kLine)
    for (int64_t s = 0; s < kStreams; ++s) {
      const std::byte* const line = bytes + s * stream + at;
      if constexpr (kAhead > 0) __builtin_prefetch(line + kAhead);
      std::memcpy(&word, line, sizeof word);
      sum += word;
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
  double read = 0;
  for (const auto sum_up : {sum_of_lines<1, 0>, sum_of_lines<1, 4096>, sum_of_lines<4, 1024>, sum_of_lines<32, 512>})
    read = std::max(read, timed([&](int64_t at, int64_t size) {
                      sum.fetch_add(sum_up(to.data() + at, size), std::memory_order_relaxed);
                    }));
  expect(sum.load() != 0, "what was copied is there");
  return {.copy = 2 * std::max(copied, streamed), .read = read};
}

MemoryRates measured_memory_rates(DeviceId gpu, double seconds) {
  constexpr int64_t kBytes = int64_t(256) << 20;  // each, beside whatever else the card holds
  constexpr int kCopies = 64;                     // of a run, so that its end costs nothing beside it
  const Buffer from(size_t(kBytes), Purpose::workspace, gpu), to(size_t(kBytes), Purpose::workspace, gpu);
  Stream stream(gpu);
  const Tensor in = from.tensor(DType::u8, {kBytes}), out = to.tensor(DType::u8, {kBytes});
  const auto nothing = [](int) {};
  const double best = fastest(
      seconds, nothing,
      [&](int) {
        for (int i = 0; i < kCopies; ++i) copy(stream, out, in);
        stream.synchronize();
      },
      nothing);
  const double rate = 2.0 * double(kBytes) * kCopies / best;
  return {.copy = rate, .read = rate};
}

}  // namespace fulgur::bench

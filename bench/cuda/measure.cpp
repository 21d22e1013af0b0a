#include "bench/cuda/measure.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <thread>

#include "bench/cuda/kernels.h"
#include "bench/cuda/stopwatch.h"
#include "device/buffer.h"
#include "device/cuda_timing.h"

namespace fulgur::bench {
namespace {

constexpr int64_t kLeastSets = 3, kMostSets = 64;
constexpr double kMatrixRate = 989e12;  // FLOP/s of an H100 SXM in bf16, of its data sheet

std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;)
    if (word.find_first_not_of("0123456789.") == std::string::npos && word.find('.') != std::string::npos) return word;
  return "unknown";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

// Bytes per second of copies, read and written bytes counted: the run time's, and our own kernel's.
Document copy_rates(Stream& stream, double seconds) {
  constexpr int64_t kBytes = int64_t(2) << 30;
  const Buffer from(kBytes, Purpose::workspace, stream.device()), to(kBytes, Purpose::workspace, stream.device());
  const Tensor in = from.tensor(DType::f32, {kBytes / 4}), out = to.tensor(DType::f32, {kBytes / 4});
  fill_normal(stream, in, 1, 1, 0);
  const double plain = time_calls(stream, 1, seconds, [&](int64_t) { copy(stream, out, in); }).seconds;
  const double own =
      time_calls(stream, 1, seconds, [&](int64_t) { copy_by_kernel(stream, to.data(), from.data(), kBytes); }).seconds;
  expect(digest_of(stream, out) == digest_of(stream, in), "what was copied is there");
  return {{"copy_bytes_per_second", 2.0 * kBytes / std::min(plain, own)},
          {"copy_by_run_time", 2.0 * kBytes / plain},
          {"copy_by_kernel", 2.0 * kBytes / own},
          {"matrix_flop_per_second", kMatrixRate},
          {"matrix_rate_from", "data sheet of H100 SXM, bf16"}};
}

// A line's sets of operands, each in its own part of one buffer.
class Sets {
 public:
  Sets(Stream& stream, const Line& line, int64_t cache_bytes, int64_t free_bytes) : stream_(stream), line_(line) {
    Arena sizes = Arena::measuring(stream.device());
    Draw draw(stream, sizes, 0);
    line.draw(draw);
    bytes_ = (int64_t(sizes.peak_bytes()) + 4095) / 4096 * 4096;
    const int64_t wanted = std::clamp(2 * cache_bytes / bytes_ + 2, kLeastSets, kMostSets);
    const int64_t fitting = std::max<int64_t>(1, free_bytes / 10 * 8 / bytes_);
    memory_ = Buffer(size_t(bytes_ * std::min(wanted, fitting)), Purpose::activations, stream.device());
    for (int64_t set = 0; set < std::min(wanted, fitting); ++set) calls_.push_back(drawn(set));
  }
  // The same numbers every time; what the call writes alone is poisoned.
  Call drawn(int64_t set) {
    Arena arena(memory_.data() + set * bytes_, size_t(bytes_), stream_.device());
    Draw draw(stream_, arena, uint64_t(set + 1) << 32);
    const Call call = line_.draw(draw);
    for (const TouchedTensor& t : call.tensors)
      if (t.written && !t.read && t.tensor.dense()) poison(stream_, t.tensor);
    return call;
  }
  int64_t count() const { return int64_t(calls_.size()); }
  const Call& operator[](int64_t i) const { return calls_[size_t(i % count())]; }

 private:
  Stream& stream_;
  const Line& line_;
  int64_t bytes_ = 0;
  Buffer memory_;
  std::vector<Call> calls_;
};

std::vector<Digest> digests_of(Stream& stream, const Call& call) {
  std::vector<Digest> digests;
  for (const TouchedTensor& t : call.tensors)
    if (t.written && t.tensor.dense()) digests.push_back(digest_of(stream, t.tensor));
  return digests;
}

Document measured(Stream& stream, const Line& line, const MeasureOptions& options, const Document& rates) {
  const cuda::CudaCard card = cuda::card_of(options.device);
  Sets sets(stream, line, card.cache_bytes, card.free_bytes);
  sets[0].run(stream);
  const std::vector<Digest> first = digests_of(stream, sets[0]);
  Document error;
  if (options.errors && sets[0].error) error = sets[0].error(stream);
  const CallTime time = time_calls(stream, sets.count(), options.seconds, [&](int64_t i) { sets[i].run(stream); });
  const Call again = sets.drawn(0);
  again.run(stream);
  const bool repeats = digests_of(stream, again) == first;
  bool whole = true;
  for (const Digest& d : first) whole = whole && d.nans == 0;
  const double byte_seconds = again.bytes / rates["copy_bytes_per_second"].get<double>();
  const double flop_seconds = again.flops / rates["matrix_flop_per_second"].get<double>();
  return {{"name", line.name + " " + line.shape},
          {"operator", line.name},
          {"shape", line.shape},
          {"value", time.seconds},
          {"unit", "s"},
          {"better", "less"},
          {"spread", time.spread},
          {"calls", time.calls},
          {"graph", time.graph},
          {"sets", sets.count()},
          {"bytes", again.bytes},
          {"flops", again.flops},
          {"floor_bytes_seconds", byte_seconds},
          {"floor_flops_seconds", flop_seconds},
          {"share_of_floor", std::max(byte_seconds, flop_seconds) / time.seconds},
          {"relative_error", error},
          {"every_byte_repeats", repeats},
          {"every_element_written", whole}};
}

}  // namespace

Document measure(const std::vector<Line>& lines, const MeasureOptions& options) {
  Stream stream(options.device);
  const cuda::CudaCard card = cuda::card_of(options.device);
  Document document{{"bench", "cuda"},
                    {"isa", "cuda"},
                    {"dtype", "bf16"},
                    {"card", card.name},
                    {"driver", driver_version()},
                    {"cuda", card.cuda_version},
                    {"date", today()},
                    {"rates", copy_rates(stream, options.seconds)},
                    {"figures", Document::array()}};
  for (const Line& line : lines) {
    if ((line.name + " " + line.shape).find(options.filter) == std::string::npos) continue;
    std::fprintf(stderr, "%s %s\n", line.name.c_str(), line.shape.c_str());
    document["figures"].push_back(measured(stream, line, options, document["rates"]));
  }
  return document;
}

}  // namespace fulgur::bench

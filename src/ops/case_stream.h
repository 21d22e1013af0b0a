// The stream that cases run their operators on: an ordinary CPU stream. Where the environment says
// FULGUR_CASE_DEVICE=cuda, each call also runs as its CUDA twin, on copies of its operands, and what the CPU twin wrote
// is replaced by what the GPU wrote: the case's oracles, tolerances and invariances then judge the CUDA twin. Calls in
// f64 and those of operators without a CUDA twin stay on the CPU; the program ends with how many there were.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "device/recorder.h"
#include "device/transfer.h"

namespace fulgur::cases {

inline const char* const kWithoutTwin[] = {
#pragma push_macro("FULGUR_CUDA_MISSING")
#undef FULGUR_CUDA_MISSING
#define FULGUR_CUDA_MISSING(name, Operands) #name,
#include "ops/cuda_missing.txt"
#pragma pop_macro("FULGUR_CUDA_MISSING")
    ""};

// A call's operands as they lay in memory before it. Ranges that overlap are one, so operands that share memory share
// it on the device too; each lies at its address modulo kAlign, with margins that nobody may write.
class OperandImage {
 public:
  explicit OperandImage(const std::vector<TouchedTensor>& tensors) {
    for (const TouchedTensor& t : tensors) ranges_.push_back(covered(t.tensor));
    merge();
    size_t end = 0;
    for (Range& range : ranges_) {
      range.at = end + kMargin;
      range.at += (uintptr_t(range.begin) - range.at) % kAlign;
      end = range.at + range.bytes();
    }
    bytes_.assign(end + kMargin, kUntouched);
    for (const Range& range : ranges_)
      if (range.bytes() != 0) std::memcpy(bytes_.data() + range.at, range.begin, range.bytes());
  }

  const std::vector<uint8_t>& bytes() const { return bytes_; }

  // The operand in an image that lies at `data`.
  Tensor moved(Tensor t, std::byte* data, DeviceId device) const {
    t.data = data + offset(t.data), t.device = device;
    return t;
  }

  // Takes what a twin made of the image into the written operands; how many bytes it changed beside them.
  size_t take(const std::vector<uint8_t>& made, const std::vector<TouchedTensor>& tensors) const {
    std::vector<uint8_t> free = bytes_;  // with the written bytes as they became
    for (const TouchedTensor& t : tensors)
      if (t.written)
        each_element(t.tensor, [&](std::byte* element, size_t size) {
          std::memcpy(element, made.data() + offset(element), size);
          std::memcpy(free.data() + offset(element), made.data() + offset(element), size);
        });
    size_t changed = 0;
    for (size_t i = 0; i < made.size(); ++i) changed += made[i] != free[i];
    return changed;
  }

 private:
  static constexpr size_t kMargin = 512, kAlign = 256;
  static constexpr uint8_t kUntouched = 0xa5;

  struct Range {
    std::byte *begin, *end;
    size_t at = 0;
    size_t bytes() const { return size_t(end - begin); }
  };

  static Range covered(const Tensor& t) {
    if (t.count() == 0) return {t.data, t.data};
    int64_t low = 0, high = 1;
    for (int axis = 0; axis < t.rank; ++axis) {
      const int64_t reach = (t.dim(axis) - 1) * t.stride[size_t(axis)];
      (reach < 0 ? low : high) += reach;
    }
    return {t.data + low * byte_size(t.dtype), t.data + high * byte_size(t.dtype)};
  }

  void merge() {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::vector<Range> apart;
    for (const Range& range : ranges_) {
      if (apart.empty() || (range.begin >= apart.back().end && range.begin != apart.back().begin))
        apart.push_back(range);
      else apart.back().end = std::max(apart.back().end, range.end);
    }
    ranges_ = apart;
  }

  size_t offset(const std::byte* at) const {  // of an address in a range
    auto range = std::upper_bound(ranges_.begin(), ranges_.end(), at,
                                  [](const std::byte* address, const Range& r) { return address < r.begin; });
    --range;
    return range->at + size_t(at - range->begin);
  }

  template <class Visit>
  static void each_element(const Tensor& t, const Visit& visit) {
    for (int64_t i = 0, count = t.count(); i < count; ++i) {
      int64_t at = 0, rest = i;
      for (int axis = t.rank - 1; axis >= 0; --axis)
        at += rest % t.dim(axis) * t.stride[size_t(axis)], rest /= t.dim(axis);
      visit(t.data + at * byte_size(t.dtype), size_t(byte_size(t.dtype)));
    }
  }

  std::vector<Range> ranges_;  // by address
  std::vector<uint8_t> bytes_;
};

// The GPU of a case's program, and what ran on it.
class CaseDevice : public ::testing::Environment {
 public:
  void SetUp() override {
    const char* const asked = std::getenv("FULGUR_CASE_DEVICE");
    if (!asked || std::strcmp(asked, "cpu") == 0) return;
    if (std::strcmp(asked, "cuda") != 0) FAIL() << "FULGUR_CASE_DEVICE is cpu or cuda, not '" << asked << "'";
    try {
      stream_.emplace(kDevice);
      grow(1 << 20);
    } catch (const Error& error) {
      FAIL() << "FULGUR_CASE_DEVICE=cuda, and CUDA cannot be used: " << error.what();
    }
  }
  void TearDown() override {
    if (stream_) print();
    memory_ = Buffer();
    stream_.reset();
  }

  bool given() const { return stream_.has_value(); }

  // Whether a call is to run on CUDA; counts those that are not. A death test's child cannot use its parent's GPU.
  bool wants(const OperatorCall& call) {
    if (!given() || getpid() != process_) return false;
    const auto is = [&](DType type) {
      return std::any_of(call.tensors.begin(), call.tensors.end(), [=](auto& t) { return t.tensor.dtype == type; });
    };
    const bool has_twin = std::none_of(std::begin(kWithoutTwin), std::end(kWithoutTwin),
                                       [&](const char* name) { return std::strcmp(name, call.name) == 0; });
    const bool wanted = has_twin && (!is(DType::f64) || is(DType::f32) || is(DType::bf16));
    if (!wanted) ++counts_[call.name].cpu;
    return wanted;
  }

  // Runs a call as it was before on the GPU, and takes its results.
  void run(const OperatorCall& call, const Replay& replay, const OperandImage& before) {
    try {
      if (before.bytes().size() > memory_.bytes()) grow(2 * before.bytes().size());
      Arena arena(memory_.data(), memory_.bytes(), kDevice);
      const Tensor image = upload(*stream_, arena, before.bytes());
      std::vector<Tensor> operands;
      for (const TouchedTensor& t : call.tensors) operands.push_back(before.moved(t.tensor, image.data, kDevice));
      replay(*stream_, operands);
      const size_t changed = before.take(download<uint8_t>(*stream_, image), call.tensors);
      EXPECT_EQ(changed, 0u) << call.name << " on CUDA changed bytes outside the operands that it writes";
      ++counts_[call.name].cuda;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      ++counts_[call.name].refused;
      refusals_.insert(std::string(call.name) + ": " + error.what());
    }
  }

 private:
  static constexpr DeviceId kDevice{DeviceKind::cuda, 0};
  struct Counts {
    int64_t cuda = 0, refused = 0, cpu = 0;
  };

  void grow(size_t bytes) {
    memory_ = Buffer();
    memory_ = Buffer(bytes, Purpose::workspace, kDevice);
  }

  void print() const {
    Counts all;
    std::printf("%-28s %9s %9s %9s\n", "calls", "on CUDA", "refused", "on CPU");
    for (const auto& [name, n] : counts_) {
      std::printf("%-28s %9lld %9lld %9lld\n", name.c_str(), (long long)n.cuda, (long long)n.refused, (long long)n.cpu);
      all.cuda += n.cuda, all.refused += n.refused, all.cpu += n.cpu;
    }
    for (const std::string& refusal : refusals_) std::printf("refused: %s\n", refusal.c_str());
    std::printf("calls on CUDA: %lld of %lld\n", (long long)all.cuda, (long long)(all.cuda + all.refused + all.cpu));
  }

  const pid_t process_ = getpid();
  std::optional<Stream> stream_;
  Buffer memory_;
  std::map<std::string, Counts> counts_;
  std::set<std::string> refusals_;
};

// gtest owns it.
inline CaseDevice* const case_device =
    static_cast<CaseDevice*>(::testing::AddGlobalTestEnvironment(new CaseDevice));  // NOLINT

class CaseStream : public Stream {
 public:
  explicit CaseStream(DeviceId device = {}, int threads = 1) : Stream(device, threads) {
    if (!case_device->given()) return;
    // The CPU twin goes first: it checks what only the host can check, and ends a death test before the GPU is asked.
    recorder_.before = [this](const OperatorCall& call, const Replay&) {
      before_.reset();
      if (case_device->wants(call)) before_.emplace(call.tensors);
    };
    recorder_.after = [this](const OperatorCall& call, const Replay& replay) {
      if (before_) case_device->run(call, replay, *before_);
      recorder_.calls.clear();
    };
    recorder_.start(*this);
  }

 private:
  Recorder recorder_;
  std::optional<OperandImage> before_;
};

}  // namespace fulgur::cases

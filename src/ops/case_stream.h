// The stream that cases run their operators on: an ordinary CPU stream. Where the environment says
// FULGUR_CASE_DEVICE=cuda, each call also runs as its CUDA twin, on copies of its operands, and what the CPU twin wrote
// is replaced by what the GPU wrote: the case's oracles, tolerances and invariances then judge the CUDA twin. Calls in
// f64 stay on the CPU; the program ends with how many there were.
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
#include "ops/operand_image.h"

namespace fulgur::cases {

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
    const bool wanted = !is(DType::f64) || is(DType::f32) || is(DType::bf16);
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

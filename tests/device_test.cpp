// Streams, buffers and arenas; with a GPU also the way to it and back. Without one the GPU's part says so.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <span>

#include "device/arena.h"
#include "device/buffer.h"
#include "device/cuda_calls.h"
#include "device/cuda_timing.h"
#include "device/devices.h"
#include "device/recorder.h"
#include "device/transfer.h"
#include "ops/blend.h"

namespace fulgur {
namespace {

TEST(Arena, scopes_rewind_and_the_limit_holds) {
  const Buffer memory(4096, Purpose::workspace);
  Arena arena(memory.data(), 4096, {});
  const Tensor first = arena.alloc(DType::f32, {10});
  {
    const Arena::Scope scope(arena);
    const Tensor second = arena.alloc(DType::f32, {100});
    EXPECT_EQ((second.data - first.data) % 256, 0);
    second.elements<float>()[5] = 1;
    EXPECT_THROW(arena.alloc(DType::f64, {1000}), Error);
  }
  const Tensor again = arena.alloc(DType::f32, {100});
#ifdef FULGUR_POISON
  EXPECT_TRUE(std::isnan(again.elements<float>()[5])) << "what a scope leaves is poisoned";
#else
  EXPECT_EQ(again.elements<float>()[5], 1);
#endif
  EXPECT_EQ(arena.peak_bytes(), 256u + 400u);
}

TEST(Arena, measures_without_memory) {
  Arena arena = Arena::measuring({});
  const Tensor t = arena.alloc(DType::bf16, {4'000'000, 6144});
  EXPECT_EQ(t.data, nullptr);
  EXPECT_GT(arena.peak_bytes(), size_t(45) << 30);
  Stream stream = Stream::measuring({});
  blend(stream, {.y = t, .a = t, .alpha = 1});
  EXPECT_EQ(stream.counted_bytes(), 2 * t.bytes());
}

TEST(Buffer, more_than_the_machine_has) {
  try {
    const Buffer memory(size_t(1) << 46, Purpose::weights);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
    EXPECT_NE(std::string(error.what()).find("70368744177664 bytes asked"), std::string::npos) << error.what();
  }
}

TEST(Transfer, up_and_down) {
  const Buffer memory(1 << 16, Purpose::workspace);
  Arena arena(memory.data(), 1 << 16, {});
  Stream stream({}, 2);
  const std::vector<int32_t> values{1, 2, 3, 4, 5, 6};
  const Tensor t = upload(stream, arena, values, {2, 3});
  EXPECT_EQ(download<int32_t>(stream, t), values);
  clear(stream, t);
  EXPECT_EQ(download<int32_t>(stream, t), std::vector<int32_t>(6));
}

TEST(Transfer, arrays_that_go_together) {
  const Buffer memory(1 << 16, Purpose::workspace);
  Arena arena(memory.data(), 1 << 16, {});
  arena.alloc(DType::u8, {3});
  Stream stream;
  Uploads uploads(arena);
  const std::vector<int32_t> one{1, 2, 3}, none;
  const std::vector<double> two{0.5, 1.5};
  const Tensor a = uploads.add(one), b = uploads.add(none), c = uploads.add(two, {1, 2});
  uploads.send(stream);
  EXPECT_EQ(download<int32_t>(stream, a), one);
  EXPECT_EQ(download<int32_t>(stream, b), none);
  EXPECT_EQ(download<double>(stream, c), two);
  EXPECT_EQ(bytes_of(stream, c).size(), 16u);
}

ErrorKind refusal(const std::string& name) {
  try {
    device_named("--device", name);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--device " + name), std::string::npos) << error.what();
    return error.kind();
  }
  ADD_FAILURE() << name << " was not refused";
  return ErrorKind::not_found;
}

TEST(Devices, by_name) {
  EXPECT_EQ(device_named("--device", "cpu"), DeviceId{});
  EXPECT_EQ(name_of(DeviceId{}), "cpu");
  EXPECT_EQ(name_of({DeviceKind::cuda, 3}), "cuda:3");
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:1000", "cuda:-1", "CPU"})
    EXPECT_EQ(refusal(name), ErrorKind::invalid_input) << name;
  if (kCudaBuilt) return;  // what such a build has is the machine's
  EXPECT_EQ(device_named("--device", "auto"), DeviceId{});
  EXPECT_EQ(refusal("cuda"), ErrorKind::unsupported);
  EXPECT_EQ(refusal("cuda:1"), ErrorKind::unsupported);
}

constexpr DeviceId kGpu{DeviceKind::cuda, 0};

TEST(Devices, a_card_without_kernels_is_named) {
  if (!kCudaBuilt || !cuda::runs_kernels(kGpu) || cuda::card_of(kGpu).name != "emulated") return;
  setenv("FULGUR_EMULATED_GPU", "7", 1);
  EXPECT_EQ(refusal("cuda"), ErrorKind::device);
  EXPECT_EQ(device_named("--device", "auto"), DeviceId{});
  unsetenv("FULGUR_EMULATED_GPU");
  EXPECT_EQ(device_named("--device", "auto"), kGpu);
}

TEST(Cuda, refused_without_it) {
  if (kCudaBuilt) return;  // to_the_device_and_back tests that build
  EXPECT_THROW(Stream(kGpu, 1), Error);
  EXPECT_THROW(Buffer(16, Purpose::weights, kGpu), Error);
}

TEST(Cuda, to_the_device_and_back) {
  if (!kCudaBuilt) return;  // refused_without_it tests this build
  std::unique_ptr<Stream> stream;
  try {
    stream = std::make_unique<Stream>(kGpu, 1);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
    GTEST_SKIP() << "no GPU: " << error.what();
  }
  const Buffer memory(1 << 20, Purpose::workspace, kGpu);
  Arena arena(memory.data(), 1 << 20, kGpu);
  std::vector<float> values(1000);
  std::iota(values.begin(), values.end(), 0.5f);
  const Tensor t = upload(*stream, arena, values), other = arena.alloc(DType::f32, {1000});
  copy(*stream, other, t);
  clear(*stream, t);
  EXPECT_EQ(download<float>(*stream, other), values);
  EXPECT_EQ(download<float>(*stream, t), std::vector<float>(1000));
  const Buffer wide(3 * Stream::kStaging, Purpose::workspace, kGpu);
  std::vector<float> many(3 * Stream::kStaging / sizeof(float) - 5);
  std::iota(many.begin(), many.end(), 0.25f);
  const Tensor more = wide.tensor(DType::f32, {int64_t(many.size())});
  send(*stream, more, many.data());
  EXPECT_EQ(download<float>(*stream, more), many) << "more than is staged at once";
  size_t seen = 0, pieces = 0;
  for_bytes(
      *stream, more, [&](auto bytes) { seen += bytes.size(), ++pieces; }, 1 << 20);
  EXPECT_EQ(seen, size_t(more.bytes()));
  EXPECT_EQ(pieces, (seen + (1 << 20) - 1) >> 20);
  try {
    const Buffer too_much(size_t(1) << 44, Purpose::weights, kGpu);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
  }
}

TEST(Cuda, calls_are_timed_in_the_stream) {
  if (!kCudaBuilt) return;
  std::unique_ptr<Stream> stream;
  try {
    stream = std::make_unique<Stream>(kGpu, 1);
  } catch (const Error& error) {
    GTEST_SKIP() << "no GPU: " << error.what();
  }
  const Buffer memory(1 << 20, Purpose::workspace, kGpu);
  const Tensor t = memory.tensor(DType::f32, {1 << 16});
  const std::vector<float> values(1 << 16, 1.5f);
  Recorder recorder;
  const auto step = [&] {
    recorder.start(*stream);
    clear(*stream, t), send(*stream, t, values.data()),
        blend(*stream, {.y = t.split({1, 1 << 16}), .a = t.split({1, 1 << 16}), .alpha = 2});
    EXPECT_THROW(recorder.record(*stream, {.name = "failed", .work = {}}, [] { fail(ErrorKind::device, "no"); }),
                 Error);
    ASSERT_EQ(recorder.calls.size(), 4u);
  };
  step();
  for (const OperatorCall& call : recorder.calls) EXPECT_EQ(call.end, 0) << call.name << " was waited for";
  recorder.stop(*stream);
  EXPECT_EQ(download<float>(*stream, t), std::vector<float>(1 << 16, 3.f));
  double before = recorder.started(), inside = 0;
  for (const OperatorCall& call : std::span(recorder.calls).first(3)) {
    EXPECT_GE(call.start, before - 2e-6) << call.name;  // an event is as exact as half a microsecond
    EXPECT_GT(call.end, call.start) << call.name;
    before = call.end, inside += call.end - call.start;
  }
  EXPECT_EQ(recorder.calls[3].end, 0) << "one that throws has no end";
  EXPECT_LE(inside, recorder.seconds() + 1e-5);
  recorder.after = [](const OperatorCall& call, const Replay&) { EXPECT_GT(call.end, call.start) << call.name; };
  step();
  EXPECT_GT(recorder.calls[0].end, recorder.calls[0].start) << "who is told of calls finds them done";
  recorder.stop(*stream);
}

}  // namespace
}  // namespace fulgur

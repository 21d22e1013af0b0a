#include "device/stream.h"

#include <algorithm>
#include <cstring>

#include "device/cuda_calls.h"
#include "device/recorder.h"

namespace fulgur {

Stream::Stream(DeviceId device, int threads) : device_(device), threads_(std::make_unique<Threads>(threads)) {
  if (device.is_cuda()) native_ = cuda::create_stream(device);
}

Stream::Stream(DeviceId device, Measure) : device_(device), threads_(std::make_unique<Threads>(1)), measuring_(true) {}

Stream::~Stream() {
  if (native_) cuda::destroy_stream(native_);
  if (staging_) cuda::release_pinned(staging_);
}

void Stream::synchronize() {
  if (native_) cuda::synchronize(native_);
  staged_ = 0;
}

std::byte* Stream::staging(size_t bytes) {
  constexpr size_t kAlign = 256;
  expect(bytes <= kStaging, "what is staged fits");
  if (!staging_) staging_ = cuda::allocate_pinned(kStaging);
  if (staged_ + bytes > kStaging) synchronize();
  std::byte* const place = staging_ + staged_;
  staged_ += (bytes + kAlign - 1) / kAlign * kAlign;
  return place;
}

std::byte* Stream::take_workspace(size_t bytes) {
  constexpr size_t kAlign = 256;
  const size_t end = workspace_used_ + (bytes + kAlign - 1) / kAlign * kAlign;
  if (!workspace_ || end > size_t(workspace_.bytes())) return nullptr;
  std::byte* const taken = workspace_.data + workspace_used_;
  workspace_used_ = end, workspace_peak_ = std::max(workspace_peak_, end);
  return taken;
}

void copy(Stream& stream, Tensor to, Tensor from) {
  expect(to.same_shape(from) && to.dtype == from.dtype, "a copy keeps shape and element type");
  expect(to.dense() && from.dense(), "a copy's tensors are dense");
  if (Recorder* recorder = stream.recorder()) [[unlikely]]
    return recorder->record(
        stream,
        {.name = "copy", .work = {.bytes = 2 * to.bytes()}, .tensors = {{to, false, true}, {from, true, false}}},
        [&] { copy(stream, to, from); });
  if (stream.measuring()) return stream.count(2 * to.bytes());
  if (to.device.is_cuda() || from.device.is_cuda()) {
    cuda::copy(stream.native(), to.data, from.data, size_t(to.bytes()));
  } else if (to.bytes() != 0) {
    std::memcpy(to.data, from.data, size_t(to.bytes()));
  }
}

void send(Stream& stream, Tensor to, const void* from) {
  expect(to.dense(), "a copy's tensors are dense");
  Tensor host = to;
  host.device = {}, host.data = static_cast<std::byte*>(const_cast<void*>(from));
  if (!to.device.is_cuda() || stream.measuring()) return copy(stream, to, host), stream.synchronize();
  if (Recorder* recorder = stream.recorder()) [[unlikely]]
    return recorder->record(
        stream,
        {.name = "copy", .work = {.bytes = 2 * to.bytes()}, .tensors = {{to, false, true}, {host, true, false}}},
        [&] { send(stream, to, from); });
  for (size_t begin = 0, end = size_t(to.bytes()); begin < end; begin += Stream::kStaging) {
    const size_t bytes = std::min(Stream::kStaging, end - begin);
    std::byte* const place = stream.staging(bytes);
    std::memcpy(place, host.data + begin, bytes);
    cuda::copy(stream.native(), to.data + begin, place, bytes);
  }
}

void receive(Stream& stream, void* to, Tensor from) {
  const size_t bytes = size_t(from.bytes());
  if (!from.device.is_cuda() || stream.measuring() || stream.recorder() || bytes > Stream::kStaging) {
    Tensor host = from;
    host.device = {}, host.data = static_cast<std::byte*>(to);
    return copy(stream, host, from), stream.synchronize();
  }
  expect(from.dense(), "a copy's tensors are dense");
  std::byte* const place = stream.staging(bytes);
  cuda::copy(stream.native(), place, from.data, bytes);
  stream.synchronize();
  if (bytes > 0) std::memcpy(to, place, bytes);
}

void clear(Stream& stream, Tensor tensor) {
  expect(tensor.dense(), "a cleared tensor is dense");
  if (Recorder* recorder = stream.recorder()) [[unlikely]]
    return recorder->record(stream,
                            {.name = "clear", .work = {.bytes = tensor.bytes()}, .tensors = {{tensor, false, true}}},
                            [&] { clear(stream, tensor); });
  if (stream.measuring()) return stream.count(tensor.bytes());
  if (tensor.device.is_cuda()) {
    cuda::clear(stream.native(), tensor.data, size_t(tensor.bytes()));
  } else if (tensor.bytes() != 0) {
    std::memset(tensor.data, 0, size_t(tensor.bytes()));
  }
}

}  // namespace fulgur

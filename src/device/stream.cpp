#include "device/stream.h"

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
}

void Stream::synchronize() {
  if (native_) cuda::synchronize(native_);
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

// Stream: an ordered queue of work on one device. Passed explicitly; there is no current device.
#pragma once
#include <memory>

#include "base/tensor.h"
#include "base/threads.h"

namespace fulgur {

extern const bool kCudaBuilt;  // whether this program can use a CUDA device

class Recorder;

class Stream {
 public:
  // threads: how many a CPU twin may use. Throws unsupported for a CUDA device in a build without CUDA, device when
  // the driver refuses.
  explicit Stream(DeviceId device = {}, int threads = 1);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Operators check their operands, count their bytes and return without computing: pair with Arena::measuring().
  static Stream measuring(DeviceId device) { return Stream(device, Measure{}); }

  DeviceId device() const { return device_; }
  Threads& threads() { return *threads_; }  // what a CPU twin runs on
  void* native() const { return native_; }  // cudaStream_t on CUDA
  void synchronize();

  bool measuring() const { return measuring_; }
  void count(int64_t bytes) { counted_bytes_ += bytes; }
  int64_t counted_bytes() const { return counted_bytes_; }

  // Memory that a CUDA device reads and writes by itself, for up to kStaging bytes on their way; free again once the
  // stream was waited for, which this does where nothing is left.
  static constexpr size_t kStaging = size_t(8) << 20;
  std::byte* staging(size_t bytes);

  // Memory that operators' scratch on a CUDA device comes from; who lends it keeps it for as long as the stream lives.
  // What does not fit there they take from the device's own pool.
  void lend(Tensor workspace) { workspace_ = workspace; }
  std::byte* take_workspace(size_t bytes);  // the last taken is given back first; null: it does not fit
  void give_back_workspace(const std::byte* taken) { workspace_used_ = size_t(taken - workspace_.data); }
  size_t workspace_peak() const { return workspace_peak_; }    // bytes
  size_t taken_from_pool() const { return taken_from_pool_; }  // bytes of all calls whose scratch did not fit
  void count_from_pool(size_t bytes) { taken_from_pool_ += bytes; }

  // Who is told of every operator (device/recorder.h); null: nobody. Not owned.
  void record(Recorder* recorder) { recorder_ = recorder; }
  Recorder* recorder() const { return recorder_; }

 private:
  struct Measure {};
  Stream(DeviceId device, Measure);

  DeviceId device_;
  std::unique_ptr<Threads> threads_;
  bool measuring_ = false;
  int64_t counted_bytes_ = 0;
  Recorder* recorder_ = nullptr;
  void* native_ = nullptr;
  std::byte* staging_ = nullptr;
  size_t staged_ = 0;
  Tensor workspace_ = {};
  size_t workspace_used_ = 0, workspace_peak_ = 0, taken_from_pool_ = 0;
};

// Moves bytes between tensors of one shape and type, on any devices; ordered on the stream. Both dense.
void copy(Stream& stream, Tensor to, Tensor from);
// Copies bytes of main memory, which may change as soon as this returns; waits only where more than Stream::kStaging
// bytes are on their way. Dense.
void send(Stream& stream, Tensor to, const void* from);
// The other way, for what the device has computed; waits for the stream.
void receive(Stream& stream, void* to, Tensor from);
// All bytes zero. Dense.
void clear(Stream& stream, Tensor tensor);

}  // namespace fulgur

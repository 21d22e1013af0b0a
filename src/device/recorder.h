// Recorder: what a stream's operators were asked to do and how long each took. A stream has none unless somebody asks.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/event.h"
#include "device/work.h"

namespace fulgur {

struct TouchedTensor {
  Tensor tensor;
  bool read, written;
};

struct OperatorCall {
  const char* name;
  Work work;
  std::vector<TouchedTensor> tensors = {};  // those that were given, in the order of operands()
  // monotonic_seconds() between which the device worked on it; on a GPU known once the recorder stops. Before it is
  // recorded, `start` may say since when the call is being described, which is then the recorder's time and not the
  // step's.
  double start = 0, end = 0;
};

// Runs a recorded call again on other tensors of the same shapes and strides, in the order of OperatorCall::tensors.
using Replay = std::function<void(Stream&, std::span<const Tensor>)>;

class Recorder {
 public:
  std::vector<OperatorCall> calls;
  // Told of every call before it runs, and after its work is done, for which the host then waits: times of a GPU are
  // the host's, a launch each included. Empty: nobody is, and they are of events in the stream, whose work was held
  // back a moment, so that the host's part of a step is outside of them.
  std::function<void(const OperatorCall&, const Replay&)> before, after;

  // Forgets what was recorded and records what the stream runs from now on, until stop. A recorder that the stream has
  // already goes on recording, inside this one's brackets.
  void start(Stream& stream);
  void stop(Stream& stream);
  // From start to stop, without the time that recording itself took; of a GPU, while the step was on it.
  double seconds() const { return stopped_ - started_ - own_seconds_; }
  double started() const { return started_; }

  // One call around its work. A measuring stream's calls take no time. One that throws has no end.
  template <class Run>
  void record(Stream& stream, OperatorCall call, const Run& run) {
    const size_t at = enter(stream, std::move(call));
    try {
      run();
    } catch (...) {
      stream.record(this);
      throw;
    }
    leave(stream, at);
  }

 private:
  friend class RecordedStep;
  size_t enter(Stream& stream, OperatorCall call);
  void leave(Stream& stream, size_t at);
  void take_times_of_events();

  Recorder* outer_ = nullptr;  // whom the stream told before
  double started_ = 0, stopped_ = 0, own_seconds_ = 0;
  int64_t steps_ = 0;
  // Of a GPU's step: its start, then start and end of every call, null where it did not come to its end; its stop.
  std::vector<std::unique_ptr<StreamEvent>> events_;
};

inline constexpr int64_t kRecordedStep = 3;  // the first two warm caches, pages and threads

// A step of a longer run, as `--trace` records it: the recorder keeps the third, or the last where there are fewer.
class RecordedStep {
 public:
  RecordedStep(Stream& stream, Recorder* recorder);  // null: nothing is recorded
  RecordedStep(const RecordedStep&) = delete;
  RecordedStep& operator=(const RecordedStep&) = delete;
  ~RecordedStep();

 private:
  Stream& stream_;
  Recorder* const recorder_;
};

}  // namespace fulgur

// --trace F: the operators of one real step as a Chrome trace, and their table on standard error.
#pragma once
#include <memory>
#include <string>

#include "device/recorder.h"
#include "files/atomic.h"

namespace fulgur::bench {

// The trace as chrome://tracing and Perfetto load it: complete events in microseconds since the step began, with bytes,
// FLOPs and the operands' shapes.
std::string chrome_trace(const Recorder& recorder);

// "f32[2048,1024]".
std::string shape_of(const Tensor& tensor);

class StepTrace {
 public:
  enum class Record : uint8_t { for_file, always };
  // An empty path: nothing is written, and nothing recorded unless always. Throws not_found at once where the file
  // cannot be written.
  explicit StepTrace(const std::string& path, Record record = Record::for_file);

  // For RecordedStep; null where nothing is recorded.
  Recorder* recorder() { return file_ || always_ ? &recorder_ : nullptr; }
  // A step that run() takes on the stream.
  template <class Run>
  auto step(Stream& stream, const Run& run) {
    const RecordedStep recorded(stream, recorder());
    return run();
  }

  // Seconds that the recorded step's work takes at the device's rates, which are measured now; 0 where there is no
  // memory left to measure in.
  double floor(int threads, DeviceId device = {}) const;
  // Writes the file, measures the rates that the floors need and prints the table. Nothing without a path.
  void finish(int threads, DeviceId device = {});

 private:
  const bool always_;
  Recorder recorder_;
  std::unique_ptr<AtomicFile> file_;
};

}  // namespace fulgur::bench

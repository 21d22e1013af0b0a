#include "device/recorder.h"

#include "base/progress.h"

namespace fulgur {

void Recorder::start(Stream& stream) {
  calls.clear();
  own_seconds_ = 0;
  if (stream.recorder() != this) outer_ = stream.recorder();
  stream.record(this);
  started_ = stopped_ = monotonic_seconds();
}

void Recorder::stop(Stream& stream) {
  stream.synchronize();
  stopped_ = monotonic_seconds();
  stream.record(outer_);
}

size_t Recorder::enter(Stream& stream, OperatorCall call) {
  const double entered = call.start > 0 ? call.start : monotonic_seconds();
  stream.record(outer_);  // what the call itself runs is its own
  calls.push_back(std::move(call));
  const double begin = monotonic_seconds();
  own_seconds_ += begin - entered;
  calls.back().start = stream.measuring() ? entered : begin;
  return calls.size() - 1;
}

void Recorder::leave(Stream& stream, size_t at) {
  stream.synchronize();
  calls[at].end = stream.measuring() ? calls[at].start : monotonic_seconds();
  stream.record(this);
}

RecordedStep::RecordedStep(Stream& stream, Recorder* recorder)
    : stream_(stream), recorder_(recorder && recorder->steps_ < kRecordedStep ? recorder : nullptr) {
  if (!recorder_) return;
  ++recorder_->steps_;
  recorder_->start(stream);
}

RecordedStep::~RecordedStep() {
  if (!recorder_) return;
  try {
    recorder_->stop(stream_);
  } catch (const Error&) {  // the step's own error is on its way
    stream_.record(recorder_->outer_);
  }
}

}  // namespace fulgur

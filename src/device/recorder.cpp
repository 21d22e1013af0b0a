#include "device/recorder.h"

#include "base/progress.h"

namespace fulgur {
namespace {

constexpr double kHoldSeconds = 0.02;  // longer than the host takes to launch a decode step

std::unique_ptr<StreamEvent> event_now(Stream& stream) {
  auto event = std::make_unique<StreamEvent>();
  event->record(stream);
  return event;
}

}  // namespace

void Recorder::start(Stream& stream) {
  calls.clear(), events_.clear();
  own_seconds_ = 0;
  if (stream.recorder() != this) outer_ = stream.recorder();
  stream.record(this);
  if (stream.native() && !before && !after) {
    cuda::hold(stream.native(), kHoldSeconds);
    events_.push_back(event_now(stream));
  }
  started_ = stopped_ = monotonic_seconds();
}

void Recorder::stop(Stream& stream) {
  if (!events_.empty()) events_.push_back(event_now(stream));
  stream.synchronize();
  stopped_ = monotonic_seconds();
  stream.record(outer_);
  if (!events_.empty()) take_times_of_events();
}

void Recorder::take_times_of_events() {
  const StreamEvent& first = *events_.front();
  const auto moment = [&](size_t at) { return started_ + events_[at]->seconds_since(first); };
  for (size_t i = 0; i < calls.size(); ++i)
    if (events_[2 * i + 2]) calls[i].start = moment(2 * i + 1), calls[i].end = moment(2 * i + 2);
  stopped_ = moment(events_.size() - 1), own_seconds_ = 0;
  events_.clear();
}

size_t Recorder::enter(Stream& stream, OperatorCall call) {
  const double entered = call.start > 0 ? call.start : monotonic_seconds();
  stream.record(outer_);  // what the call itself runs is its own
  calls.push_back(std::move(call));
  if (!events_.empty()) events_.push_back(event_now(stream)), events_.emplace_back();
  const double begin = monotonic_seconds();
  own_seconds_ += begin - entered;
  calls.back().start = stream.measuring() ? entered : begin;
  return calls.size() - 1;
}

void Recorder::leave(Stream& stream, size_t at) {
  if (!events_.empty()) {
    events_[2 * at + 2] = event_now(stream);
  } else {
    stream.synchronize();
    calls[at].end = stream.measuring() ? calls[at].start : monotonic_seconds();
  }
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

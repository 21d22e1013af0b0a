// How an operator tells its stream's recorder of a call: dispatch.cpp's part of device/recorder.h.
#pragma once
#include "base/progress.h"
#include "device/recorder.h"
#include "ops/operands.h"

namespace fulgur {

template <class Operands>
Work work_of(const Operands& op) {
  Work work{.bytes = bytes_of(op)};
  if constexpr (requires { op.products(); }) work.products = op.products();
  return work;
}

// run: the operator itself.
template <class Operands>
void recorded(Stream& stream, const char* name, const Operands& op, void (*run)(Stream&, const Operands&)) {
  Recorder& recorder = *stream.recorder();
  OperatorCall call{.name = name, .work = {}, .start = monotonic_seconds()};
  call.work = work_of(op);
  for_each_operand(op, [&](Operand o) {
    call.tensors.push_back({*o.tensor, is_read(o.access), is_written(o.access)});
  });
  Replay replay;
  if (recorder.before || recorder.after)
    replay = [op, run](Stream& on, std::span<const Tensor> tensors) {
      size_t next = 0;
      run(on, with_tensors(op, [&](Operand) { return tensors[next++]; }));
    };
  if (recorder.before) recorder.before(call, replay);
  recorder.record(stream, std::move(call), [&] { run(stream, op); });
  if (recorder.after) recorder.after(recorder.calls.back(), replay);
}

}  // namespace fulgur

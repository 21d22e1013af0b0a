// The lines of the CUDA bench's table: an operator at a shape, how its operands are drawn and what its floor counts.
#pragma once
#include <cmath>
#include <functional>
#include <string>

#include "bench/cuda/draw.h"
#include "device/recorder.h"
#include "ops/operands.h"

namespace fulgur::bench {

// An operator with its operands on the card.
struct Call {
  std::function<void(Stream&)> run;
  std::vector<TouchedTensor> tensors;
  double bytes = 0, flops = 0;                // of the floor: each element that is needed once
  std::function<double(Stream&)> error = {};  // after a run: relative, against f64 on a sample; empty: not judged
};

template <class Operands>
Call call_of(void (*run)(Stream&, const Operands&), const Operands& op) {
  Call call{.run = [run, op](Stream& stream) { run(stream, op); }, .tensors = {}, .bytes = double(bytes_of(op))};
  for_each_operand(op, [&](Operand o) {
    call.tensors.push_back({*o.tensor, is_read(o.access), is_written(o.access)});
  });
  return call;
}

struct Line {
  std::string name, shape;
  std::function<Call(Draw&)> draw;
};

std::vector<Line> lightning_lines();
std::vector<Line> softmax_lines();
std::vector<Line> row_lines();
std::vector<Line> product_lines();

}  // namespace fulgur::bench

// The head: hidden rows to logits, or to a loss and its gradients without ever holding the logits of a whole batch.
#include <algorithm>

#include "device/profiler_range.h"
#include "device/transfer.h"
#include "model/model.h"
#include "ops/cross_entropy.h"
#include "ops/linear.h"
#include "ops/magnitude.h"

namespace fulgur {

// Rows whose logits are there together. A GPU wants many: the head's gradient is read and written once for them.
int64_t loss_rows(DeviceId device) { return device.is_cuda() ? 4096 : 1024; }

Tensor head_logits(Exec& exec, const ModelWeights& w, Tensor hidden) {
  const Tensor logits = exec.scratch.alloc(wide(hidden.dtype), {hidden.dim(0), w.head.out()});
  linear(exec.stream, {.y = logits, .x = hidden, .w = w.head});
  return logits;
}

void head_loss(Exec& exec, const ModelWeights& w, ModelWeights& grads, Tensor hidden, Targets targets, Tensor loss) {
  const ProfilerRange phase("head and loss");
  const int64_t step = loss_rows(exec.stream.device());
  for (int64_t begin = 0; begin < hidden.dim(0); begin += step) {
    const Arena::Scope rows(exec.scratch);
    const int64_t end = std::min(begin + step, hidden.dim(0));
    const Tensor x = hidden.rows(begin, end), logits = head_logits(exec, w, x);
    const bool rounded = x.dtype != logits.dtype;
    const Tensor d_logits = rounded ? exec.scratch.alloc(x.dtype, {logits.dim(0), logits.dim(1)}) : logits;
    if (targets.logits) magnitude(exec.stream, {.sums = targets.logits, .x = logits});
    cross_entropy(exec.stream, {.loss = loss,
                                .logits = logits,
                                .targets = targets.tokens.rows(begin, end),
                                .scale = targets.scale,
                                .gradient = rounded ? d_logits : Tensor{}});
    const Tensor dx = exec.scratch.alloc(x.dtype, {x.dim(0), x.dim(1)});
    linear_backward(exec.stream, {.dx = dx, .dw = grads.head.values, .dy = d_logits, .x = x, .w = w.head});
    copy(exec.stream, x, dx);
  }
}

void head_nats(Exec& exec, const ModelWeights& w, Tensor hidden, Tensor targets, Tensor nats) {
  const Arena::Scope all(exec.scratch);
  const Tensor one = upload(exec.stream, exec.scratch, std::vector<double>{1});
  const int64_t step = loss_rows(exec.stream.device());
  for (int64_t begin = 0; begin < hidden.dim(0); begin += step) {
    const Arena::Scope rows(exec.scratch);
    const int64_t end = std::min(begin + step, hidden.dim(0));
    const Tensor logits = head_logits(exec, w, hidden.rows(begin, end));
    cross_entropy(exec.stream, {.loss = nats, .logits = logits, .targets = targets.rows(begin, end), .scale = one});
  }
}

}  // namespace fulgur

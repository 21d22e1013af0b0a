// One thread an edit. A place outside of the logits is left out: it is not read back.
#include "device/launch.cuh"
#include "ops/edit_logits.h"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void edit(View<float, 2> logits, View<int32_t, 2> places, View<float, 1> divisors, View<float, 1> offsets) {
  follow();
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= places.shape[0]) return;
  const int32_t row = places(i, 0), id = places(i, 1);
  if (row < 0 || row >= logits.shape[0] || id < 0 || id >= logits.shape[1]) return;
  float& logit = logits(row, id);
  logit = (logit > 0 ? logit / divisors(i) : logit * divisors(i)) + offsets(i);
}

}  // namespace

void edit_logits(Stream& stream, const EditLogits& op) {
  const int64_t edits = op.places.dim(0);
  if (edits == 0) return;
  launch(stream, "edit_logits",
         {.blocks = dim3(unsigned((edits + kThreads - 1) / kThreads)), .threads = dim3(kThreads), .follows = true},
         edit, op.logits.view<float, 2>(), op.places.view<int32_t, 2>(), op.divisors.view<float, 1>(),
         op.offsets.view<float, 1>());
}

}  // namespace fulgur::cuda

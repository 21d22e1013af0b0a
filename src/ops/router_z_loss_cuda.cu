// dlogits[t, e] += 2 scale log_sum_exp[t] p[t, e], a thread an element.
#include "ops/cuda/ordered_sum.cuh"
#include "ops/router_z_loss.h"

namespace fulgur::cuda {
namespace {

__global__ void __launch_bounds__(kThreads)
    add_gradient(Rows<float> dlogits, Rows<const float> probabilities, const float* log_sum_exp, double scale) {
  const int64_t at = block_index() * kThreads + threadIdx.x, row = at / dlogits.width, e = at % dlogits.width;
  if (row < dlogits.count) dlogits[row][e] += float(2 * scale * double(log_sum_exp[row])) * probabilities[row][e];
}

struct SquaredTerm {
  const float* log_sum_exp;
  double scale;
  __device__ double operator()(int64_t row) const {
    return scale * (double(log_sum_exp[row]) * double(log_sum_exp[row]));
  }
};

}  // namespace

void router_z_loss(Stream& stream, const RouterZLoss& op) {
  with_cuda_type(op.probabilities.dtype, [&]<class T>() {
    const float* const log_sum_exp = op.log_sum_exp.elements<float>();
    const Rows<float> dlogits = rows_of<float>(op.dlogits);
    launch_blocks(stream, "router_z_loss", divide_up(dlogits.count * dlogits.width, kThreads), dim3(kThreads),
                  add_gradient, dlogits, rows_of<const float>(op.probabilities), log_sum_exp, op.scale);
    add_over_rows(stream, "router_z_loss", op.loss.elements<double>(), dlogits.count,
                  SquaredTerm{log_sum_exp, op.scale});
  });
}

}  // namespace fulgur::cuda

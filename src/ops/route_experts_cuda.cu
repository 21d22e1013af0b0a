// A warp a row (ops/cuda/choose_experts.cuh). Backward writes a row of zeros and its k entries.
#include "ops/cuda/choose_experts.cuh"
#include "ops/route_experts.h"

namespace fulgur::cuda {
namespace {

struct Training {  // all null, or none
  float *probabilities, *log_sum_exp, *entropy;
  int64_t stride;
};

// What training keeps of a row: -sum of p log p is log sum - sum of p (logit - greatest).
__device__ void judge_all(const Training& t, int64_t row, const float* logits, float greatest, int64_t experts) {
  const int lane = int(threadIdx.x % 32);
  float* const p = t.probabilities + row * t.stride;
  float sum = 0;
  for (int64_t e = lane; e < experts; e += 32) p[e] = expf(logits[e] - greatest), sum += p[e];
  sum = warp_sum(sum);
  double below = 0;
  for (int64_t e = lane; e < experts; e += 32) {
    p[e] /= sum;
    below += double(p[e]) * (double(greatest) - double(logits[e]));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) below += __shfl_xor_sync(kAllLanes, below, step);
  const double log_sum = log(double(sum));
  if (lane == 0) t.log_sum_exp[row] = float(double(greatest) + log_sum), t.entropy[row] = float(log_sum + below);
}

// -infinity where there is none but NaN.
__device__ float greatest_of(const float* logits, int64_t experts) {
  const int32_t first = ExpertsInOrder(logits, experts).next();
  return first < experts && logits[first] == logits[first] ? logits[first] : -INFINITY;
}

__global__ void __launch_bounds__(kThreads)
    choose(Rows<int32_t> ids, Rows<float> weights, Rows<const float> logits, Training training) {
  follow();
  const int64_t row = Team<true>::row(), experts = logits.width, k = ids.width;
  if (row >= logits.count) return;
  const bool writes = Team<true>::thread() == 0;
  const ChosenSoftmax chosen =
      choose_experts(ExpertsInOrder(logits[row], experts), logits[row], int(k), [&](int slot, int32_t expert, float p) {
        if (writes) ids[row][slot] = expert, weights[row][slot] = p;
      });
  for (int64_t slot = 0; writes && slot < k; ++slot) weights[row][slot] /= chosen.sum;
  if (!training.probabilities) return;
  judge_all(training, row, logits[row], k > 0 ? chosen.greatest : greatest_of(logits[row], experts), experts);
}

__global__ void __launch_bounds__(kThreads)
    differentiate(Rows<float> dlogits, Rows<const float> dweights, Rows<const int32_t> ids, Rows<const float> weights) {
  const int64_t row = Team<true>::row(), k = ids.width;
  if (row >= dlogits.count) return;
  for (int64_t e = Team<true>::thread(); e < dlogits.width; e += 32) dlogits[row][e] = 0;
  __syncwarp();
  if (Team<true>::thread() != 0) return;
  float mean = 0;  // of dweights under the weights: a shift of all logits changes nothing
  for (int64_t slot = 0; slot < k; ++slot) mean += weights[row][slot] * dweights[row][slot];
  for (int64_t slot = 0; slot < k; ++slot)
    if (const int32_t e = ids[row][slot]; e >= 0 && e < dlogits.width)
      dlogits[row][e] = weights[row][slot] * (dweights[row][slot] - mean);
}

}  // namespace

void route_experts(Stream& stream, const RouteExperts& op) {
  with_cuda_type(op.logits.dtype, [&]<class T>() {
    Training training{};
    if (op.probabilities) {
      const Rows<float> probabilities = rows_of<float>(op.probabilities);
      training = {probabilities.data, op.log_sum_exp.elements<float>(), op.entropy.elements<float>(),
                  probabilities.stride};
    }
    launch_following(stream, "route_experts", divide_up(op.logits.dim(0), Team<true>::kRows), dim3(kThreads), choose,
                     rows_of<int32_t>(op.expert_ids), rows_of<float>(op.weights), rows_of<const float>(op.logits),
                     training);
  });
}

void route_experts_backward(Stream& stream, const RouteExpertsBackward& op) {
  with_cuda_type(op.weights.dtype, [&]<class T>() {
    launch_blocks(stream, "route_experts_backward", divide_up(op.dlogits.dim(0), Team<true>::kRows), dim3(kThreads),
                  differentiate, rows_of<float>(op.dlogits), rows_of<const float>(op.dweights),
                  rows_of<const int32_t>(op.expert_ids), rows_of<const float>(op.weights));
  });
}

}  // namespace fulgur::cuda

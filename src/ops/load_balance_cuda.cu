// With p = probabilities and n = rows of a window: dlogits[t, e] += scale / (E n) * p[t, e] * (f[e] - sum over i of
// f[i] p[t, i]). A block takes a window for f and the loss, a warp a row for the gradient.
#include "ops/cuda/rows.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/load_balance.h"

namespace fulgur::cuda {
namespace {

// Choices per row of an expert in a window, over all layers given.
struct Choices {
  const int32_t* data;                       // [layers, windows, experts]
  int64_t layers, windows, experts, window;  // window: its rows
  int64_t layer_stride, window_stride, expert_stride;
  __device__ double share(int64_t w, int64_t e) const {
    int64_t count = 0;
    for (int64_t layer = 0; layer < layers; ++layer)
      count += data[layer * layer_stride + w * window_stride + e * expert_stride];
    return double(count) / double(window * layers);
  }
};

constexpr int kWindowThreads = 1024;

// balances[w] = sum over experts of f * m. The threads of a column of experts take every `groups`-th row, and their
// sums are added one after another.
__global__ void __launch_bounds__(kWindowThreads)
    weigh_window(double* balances, float* shares, Choices choices, Rows<const float> probabilities) {
  __shared__ double found[kWindowThreads];
  const int64_t w = block_index(), experts = choices.experts;
  if (w >= choices.windows) return;
  const int64_t across = experts < kWindowThreads ? experts : kWindowThreads, groups = kWindowThreads / across;
  const int64_t column = threadIdx.x % across, group = threadIdx.x / across;
  double balance = 0;
  for (int64_t first = 0; first < experts; first += across) {
    const int64_t e = first + column;
    double sum = 0;
    if (e < experts && group < groups)
#pragma unroll 16  // loads under way together
      for (int64_t row = group; row < choices.window; row += groups)
        sum += double(probabilities[w * choices.window + row][e]);
    found[threadIdx.x] = sum;
    __syncthreads();
    if (group == 0 && e < experts) {
      for (int64_t g = 1; g < groups; ++g) sum += found[g * across + column];
      const double share = choices.share(w, e);
      shares[w * experts + e] = float(share);
      found[column] = share * (sum / double(choices.window));
    }
    __syncthreads();
    if (threadIdx.x == 0)
      for (int64_t i = 0; i < across && first + i < experts; ++i) balance += found[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) balances[w] = balance;
}

// Of all windows, in order.
struct Loss {
  double* sum;
  const double* balances;
  int64_t windows;
  double factor;
  __device__ void add() const {
    double all = *sum;
#pragma unroll 8  // loads under way together
    for (int64_t w = 0; w < windows; ++w) all += factor * balances[w];
    *sum = all;
  }
};

__global__ void __launch_bounds__(kThreads)
    add_gradient(Loss loss, Rows<float> dlogits, Rows<const float> probabilities, const float* shares, int64_t window,
                 float factor) {
  if (block_index() == 0 && threadIdx.x == 0) loss.add();
  const int64_t row = Team<true>::row(), experts = dlogits.width;
  if (row >= dlogits.count) return;
  const float *const p = probabilities[row], *const f = shares + row / window * experts;
  float sum = 0;
  for (int64_t e = Team<true>::thread(); e < experts; e += 32) sum += f[e] * p[e];
  const float mean = warp_sum(sum);
  for (int64_t e = Team<true>::thread(); e < experts; e += 32) dlogits[row][e] += factor * (p[e] * (f[e] - mean));
}

}  // namespace

void load_balance(Stream& stream, const LoadBalance& op) {
  with_cuda_type(op.probabilities.dtype, [&]<class T>() {
    const Rows<float> dlogits = rows_of<float>(op.dlogits);
    const Rows<const float> probabilities = rows_of<const float>(op.probabilities);
    const View<int32_t, 3> view = op.choices.view<int32_t, 3>();
    const int64_t experts = dlogits.width, windows = view.shape[1], window = dlogits.count / windows;
    const Choices choices{view.data, view.shape[0],  windows,        experts,
                          window,    view.stride[0], view.stride[1], view.stride[2]};
    const Scratch scratch(stream, size_t(windows) * sizeof(double) + size_t(windows * experts) * sizeof(float));
    double* const balances = scratch.as<double>();
    float* const shares = reinterpret_cast<float*>(balances + windows);
    if (experts == 0 || window == 0) return;
    launch_blocks(stream, "load_balance", windows, dim3(kWindowThreads), weigh_window, balances, shares, choices,
                  probabilities);
    launch_blocks(stream, "load_balance", divide_up(dlogits.count, Team<true>::kRows), dim3(kThreads), add_gradient,
                  Loss{op.loss.elements<double>(), balances, windows, op.scale / double(experts)}, dlogits,
                  probabilities, static_cast<const float*>(shares), window,
                  float(op.scale / (double(experts) * double(window))));
  });
}

}  // namespace fulgur::cuda

// Softmax attention's gradients for Hopper's tensor cores (ops/cuda/softmax_hopper_backward.cuh): kernels and launches.
#include <cmath>

#include "ops/cuda/scratch.cuh"
#include "ops/cuda/softmax_hopper_keys.cuh"
#include "ops/cuda/softmax_hopper_rows.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {
namespace softmax_hopper {
namespace {

__global__ void __launch_bounds__(kAlongThreads) row_products(const __grid_constant__ Backward op) { sum_along(op); }

__global__ void __launch_bounds__(kThreads, 1) row_gradient(const __grid_constant__ Backward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  work_on_chunk<RowGradient, RowsShared>(op);
#endif
}

// Early keys are seen by the most rows, and come first.
__global__ void __launch_bounds__(kThreads, 1) key_gradient(const __grid_constant__ Backward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
  KeysShared& shared = shared_layout<KeysShared>();
  const KeyTile keys(op, blockIdx.x);
  if (keys.empty()) return;
  if (threadIdx.x == 0) shared.rings[0].init(), shared.rings[1].init();
  barriers_are_ready();
  __syncthreads();
  const int warpgroup = warpgroup_number();
  if (warpgroup == kMultipliers) {
    registers_down<40>();
    stream_rows(op, keys, shared);
    cluster_arrive(), cluster_wait(), cluster_arrive(), cluster_wait();
  } else {
    registers_up<232>();
    KeyGradient(op, keys, shared, warpgroup).run();
    cluster_arrive(), cluster_wait();
    add_up(op, KeyTile(op, blockIdx.x), shared);
    cluster_arrive(), cluster_wait();  // others have read this block's sums
  }
#endif
}

// Thread blocks among which the heads of a group are shared out: as many as a cluster holds.
int sharing_of(int group) {
  for (int blocks = 8; blocks > 1; --blocks)
    if (group % blocks == 0) return blocks;
  return 1;
}

template <class Shared>
void launch_with(Stream& stream, const char* name, int64_t blocks, int cluster, void (*kernel)(Backward),
                 const Backward& argument) {
  const size_t bytes = sizeof(Shared) + 1024;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  launch(stream, name, {dim3(unsigned(blocks)), dim3(kThreads), bytes, unsigned(cluster)}, kernel, argument);
}

}  // namespace
}  // namespace softmax_hopper

void softmax_attention_backward_hopper(Stream& stream, const SoftmaxAttentionBackward& op) {
  using namespace softmax_hopper;
  expect_vectors(op.dq, op.dk, op.dv, op.d_o, op.q, op.k, op.v, op.o);
  const int64_t rows = op.q.dim(0), heads = op.q.dim(1), kv_heads = op.k.dim(1), sequences = op.row_begin.dim(0) - 1;
  const int group = int(heads / kv_heads);
  const Scratch scratch(stream, size_t(heads * rows) * sizeof(float));
  const Backward argument{.dq = view_of<bf16, 3>(op.dq),
                          .dk = view_of<bf16, 3>(op.dk),
                          .dv = view_of<bf16, 3>(op.dv),
                          .d_o = view_of<const bf16, 3>(op.d_o),
                          .q = view_of<const bf16, 3>(op.q),
                          .k = view_of<const bf16, 3>(op.k),
                          .v = view_of<const bf16, 3>(op.v),
                          .o = view_of<const bf16, 3>(op.o),
                          .log_sum_exp = view_of<const float, 2>(op.log_sum_exp),
                          .along = {scratch.as<float>(), {heads, rows}, {rows, 1}},
                          .row_begin = view_of<const int32_t, 1>(op.row_begin),
                          .positions = view_of<const int64_t, 1>(op.positions),
                          .sequences = sequences,
                          .kv_heads = kv_heads,
                          .chunks = int((op.longest * group + kChunk - 1) / kChunk),
                          .group = group,
                          .key_tiles = int((op.longest + kKeys - 1) / kKeys),
                          .sharing = sharing_of(group),
                          .scale = 1 / std::sqrt(float(kWidth))};
  const int64_t in_block = kAlongThreads / kPieces;
  launch(stream, "softmax_attention_backward: do . o",
         {dim3(unsigned((rows * heads + in_block - 1) / in_block)), dim3(kAlongThreads)}, row_products, argument);
  launch_with<KeysShared>(stream, "softmax_attention_backward: dk, dv",
                          argument.key_tiles * sequences * kv_heads * argument.sharing, argument.sharing, key_gradient,
                          argument);
  launch_with<RowsShared>(stream, "softmax_attention_backward: dq", argument.chunks * sequences * kv_heads, 1,
                          row_gradient, argument);
}

}  // namespace fulgur::cuda

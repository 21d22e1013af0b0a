// Softmax attention forward for Hopper's tensor cores (ops/cuda/softmax_hopper_forward.cuh): its kernel and its launch.
#include <cmath>

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/softmax_hopper_forward.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {
namespace softmax_hopper {
namespace {

__global__ void __launch_bounds__(kThreads, 1) attend(const __grid_constant__ Forward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  follow();
  work_on_chunk<ForwardRows, ForwardShared>(op);
#endif
}

}  // namespace
}  // namespace softmax_hopper

bool has_softmax_hopper(const Tensor& q) {
  return is_hopper() && q.dtype == DType::bf16 && q.dim(2) == softmax_hopper::kWidth;
}

void softmax_attention_hopper(Stream& stream, const SoftmaxAttention& op) {
  using namespace softmax_hopper;
  expect_vectors(op.o, op.q, op.k, op.v, op.kv_pages);
  const int64_t kv_heads = op.kv_heads(), group = op.q.dim(1) / kv_heads, sequences = op.row_begin.dim(0) - 1;
  const int64_t chunks = (op.longest * group + kChunk - 1) / kChunk;
  const Forward argument{.o = view_of<bf16, 3>(op.o),
                         .q = view_of<const bf16, 3>(op.q),
                         .k = view_of<const bf16, 3>(op.k),
                         .v = view_of<const bf16, 3>(op.v),
                         .pages = view_of<const bf16, 5>(op.kv_pages),
                         .table = view_of<const int32_t, 2>(op.page_table),
                         .row_begin = view_of<const int32_t, 1>(op.row_begin),
                         .positions = view_of<const int64_t, 1>(op.positions),
                         .log_sum_exp = view_of<float, 2>(op.log_sum_exp),
                         .sequences = sequences,
                         .kv_heads = kv_heads,
                         .chunks = int(chunks),
                         .group = int(group),
                         .scale = kLog2E / std::sqrt(float(kWidth))};
  const size_t bytes = sizeof(ForwardShared) + 1024;
  check(cudaFuncSetAttribute(attend, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
  launch(stream, "softmax_attention",
         {.blocks = dim3(unsigned(chunks * sequences * kv_heads)),
          .threads = dim3(kThreads),
          .shared_bytes = bytes,
          .follows = true},
         attend, argument);
}

}  // namespace fulgur::cuda

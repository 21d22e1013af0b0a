// Elementwise, so forward walks the matrices as one long row.
#include "ops/cuda/elements.cuh"
#include "ops/cuda/gates.cuh"
#include "ops/swiglu.h"

namespace fulgur::cuda {
namespace {

struct Forward {
  __device__ void operator()(const float (&x)[2], float (&y)[1]) const { y[0] = gated(x[0], x[1]); }
};

template <class T>
struct BackwardRows {
  Rows<T> dgate, dup;
  Rows<const T> dy, gate, up;
};

// A chunk of a row a thread.
template <bool kAligned, class T>
__global__ void __launch_bounds__(kThreads) backward(BackwardRows<T> p) {
  follow();
  const int64_t row = row_of_thread(), width = p.gate.width;
  if (row >= p.gate.count) return;
  for (int64_t c = int64_t(threadIdx.x) * kChunk; c < width; c += int64_t(blockDim.x) * kChunk) {
    const int64_t left = width - c;
    float dy[kChunk], gate[kChunk], up[kChunk];
    load<kAligned>(dy, p.dy[row] + c, left);
    load<kAligned>(gate, p.gate[row] + c, left), load<kAligned>(up, p.up[row] + c, left);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const GateGradients d = gate_gradients(dy[i], gate[i], up[i]);
      gate[i] = d.gate, up[i] = d.up;
    }
    store<kAligned>(p.dgate[row] + c, gate, left), store<kAligned>(p.dup[row] + c, up, left);
  }
}

}  // namespace

void swiglu(Stream& stream, const Swiglu& op) {
  with_cuda_type(op.gate.dtype, [&]<class T>() {
    for_elements<T, 2, 1>(stream, "swiglu", {{op.y.elements<T>()}, {op.gate.elements<T>(), op.up.elements<T>()}},
                          Forward{}, op.gate.count());
  });
}

void swiglu_backward(Stream& stream, const SwigluBackward& op) {
  with_cuda_type(op.gate.dtype, [&]<class T>() {
    const RowBlocks blocks(op.gate.dim(0), divide_up(op.gate.dim(1), kChunk));
    with_flag(aligned(op.dgate, op.dup, op.dy, op.gate, op.up), [&]<bool kAligned>() {
      launch_following(stream, "swiglu_backward", blocks.blocks, blocks.threads, backward<kAligned, T>,
                       BackwardRows<T>{rows_of<T>(op.dgate), rows_of<T>(op.dup), rows_of<const T>(op.dy),
                                       rows_of<const T>(op.gate), rows_of<const T>(op.up)});
    });
  });
}

}  // namespace fulgur::cuda

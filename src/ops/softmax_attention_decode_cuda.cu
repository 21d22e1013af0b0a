// Softmax attention of one row a sequence over pages, its keys in pieces (ops/cuda/softmax_decode.cuh).
#include <algorithm>

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/scratch.cuh"
#include "ops/cuda/softmax_decode_add.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {
namespace {

// Dense, from `data` on.
template <class T, int R>
View<T, R> view_on(T* data, const int64_t (&shape)[R]) {
  View<T, R> view{data, {}, {}};
  for (int64_t axis = R - 1, stride = 1; axis >= 0; stride *= shape[axis--])
    view.shape[axis] = shape[axis], view.stride[axis] = stride;
  return view;
}

template <int kWidth>
void launch_decode(Stream& stream, SoftmaxDecode op, int64_t pieces) {
  const int64_t sequences = op.row_begin.shape[0] - 1, rows = op.o.shape[0], heads = op.o.shape[1];
  const int64_t items = op.pages.shape[2] * op.chunks * sequences, count = rows * heads * pieces;
  const Scratch scratch(stream, size_t(count) * (kWidth + 2) * sizeof(float));
  op.sum = view_on<float, 4>(scratch.as<float>(), {rows, heads, pieces, kWidth});
  op.statistics = view_on<float2, 3>(reinterpret_cast<float2*>(op.sum.data + count * kWidth), {rows, heads, pieces});
  // Tables reach further than most sequences: enough blocks to fill a GPU, not one for every piece that there may be.
  constexpr int64_t kMostBlocks = 2048;
  const int64_t strides = std::min(pieces, std::max<int64_t>(1, kMostBlocks / items));
  const size_t bytes = sizeof(DecodeShared<kWidth>);
  check(cudaFuncSetAttribute(decode_pieces<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "cudaFuncSetAttribute");
  launch(stream, "softmax_attention",
         {.blocks = dim3(unsigned(op.pages.shape[2] * op.chunks), unsigned(sequences), unsigned(strides)),
          .threads = dim3(kPieceThreads),
          .shared_bytes = bytes,
          .follows = true},
         decode_pieces<kWidth>, op);
  launch(stream, "softmax_attention",
         {.blocks = dim3(unsigned(heads), unsigned(sequences)), .threads = dim3(32 * kAdders), .follows = true},
         add_pieces<kWidth>, op);
}

}  // namespace

bool is_decode_in_pieces(const SoftmaxAttention& op) {
  return !op.in_order && op.kv_pages && op.longest == 1 && op.q.dtype == DType::bf16 &&
         (op.q.dim(2) == 64 || op.q.dim(2) == 128) && op.row_begin.dim(0) <= 65536 && is_hopper();  // rows of a grid
}

void softmax_attention_decode(Stream& stream, const SoftmaxAttention& op) {
  expect_vectors(op.o, op.q, op.kv_pages);
  expect(op.kv_pages.stride[3] == op.q.dim(2), "rows of a page lie end to end");
  const int64_t group = op.q.dim(1) / op.kv_heads();
  const SoftmaxDecode decode{.o = view_of<bf16, 3>(op.o),
                             .q = view_of<const bf16, 3>(op.q),
                             .pages = view_of<const bf16, 5>(op.kv_pages),
                             .table = view_of<const int32_t, 2>(op.page_table),
                             .row_begin = view_of<const int32_t, 1>(op.row_begin),
                             .positions = view_of<const int64_t, 1>(op.positions),
                             .log_sum_exp = view_of<float, 2>(op.log_sum_exp),
                             .statistics = {},
                             .sum = {},
                             .chunks = int((group + kHeadsAtOnce - 1) / kHeadsAtOnce),
                             .scale = Exponential<bf16>::kUnit / std::sqrt(float(op.q.dim(2)))};
  const int64_t pieces = (op.page_table.dim(1) + kPiecePages - 1) / kPiecePages;
  (op.q.dim(2) == 64 ? launch_decode<64> : launch_decode<128>)(stream, decode, pieces);
}

}  // namespace fulgur::cuda

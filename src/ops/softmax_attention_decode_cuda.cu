// Softmax attention of one row a sequence over pages, its keys in pieces (ops/cuda/softmax_decode.cuh).
#include <algorithm>

#include "ops/cuda/scratch.cuh"
#include "ops/cuda/softmax_decode.cuh"
#include "ops/cuda/softmax_kernels.h"

namespace fulgur::cuda {
namespace {

// Dense, from `data` on.
template <int R>
View<float, R> view_on(float* data, const int64_t (&shape)[R]) {
  View<float, R> view{data, {}, {}};
  for (int64_t axis = R - 1, stride = 1; axis >= 0; stride *= shape[axis--])
    view.shape[axis] = shape[axis], view.stride[axis] = stride;
  return view;
}

template <int kWidth>
void launch_decode(Stream& stream, SoftmaxDecode op, int64_t pieces) {
  const int64_t sequences = op.row_begin.shape[0] - 1, rows = op.o.shape[0], heads = op.o.shape[1];
  const int64_t items = sequences * op.kv_heads * op.chunks, count = rows * heads * pieces;
  const Scratch scratch(stream, size_t(count) * (kWidth + 2) * sizeof(float));
  op.sum = view_on<4>(scratch.as<float>(), {rows, heads, pieces, kWidth});
  op.maximum = view_on<3>(op.sum.data + count * kWidth, {rows, heads, pieces});
  op.total = view_on<3>(op.maximum.data + count, {rows, heads, pieces});
  // Tables reach further than most sequences: enough blocks to fill a GPU, not one for every piece that there may be.
  constexpr int64_t kMostBlocks = 4096;
  const int64_t strides = std::min(pieces, std::max<int64_t>(1, kMostBlocks / items));
  const size_t bytes = sizeof(DecodeShared<kWidth>);
  launch(
      stream, "softmax_attention",
      {dim3(unsigned(op.kv_heads * op.chunks), unsigned(sequences), unsigned(strides)), dim3(32 * kPiecePages), bytes},
      decode_pieces<kWidth>, op);
  launch(stream, "softmax_attention", {dim3(unsigned(heads), unsigned(sequences)), dim3(32 * kAdders)},
         add_pieces<kWidth>, op);
}

}  // namespace

bool is_decode_in_pieces(const SoftmaxAttention& op) {
  return !op.in_order && op.kv_pages && op.longest == 1 && op.q.dtype == DType::bf16 && op.q.dim(2) % 64 == 0 &&
         op.row_begin.dim(0) <= 65536;  // rows of a grid
}

void softmax_attention_decode(Stream& stream, const SoftmaxAttention& op) {
  expect_vectors(op.o, op.q, op.kv_pages);
  expect(op.kv_pages.stride[3] == op.q.dim(2), "rows of a page lie end to end");
  const int64_t kv_heads = op.kv_heads(), group = op.q.dim(1) / kv_heads;
  const int64_t pieces = (op.page_table.dim(1) + kPiecePages - 1) / kPiecePages;
  const SoftmaxDecode decode{.o = view_of<bf16, 3>(op.o),
                             .q = view_of<const bf16, 3>(op.q),
                             .pages = view_of<const bf16, 5>(op.kv_pages),
                             .table = view_of<const int32_t, 2>(op.page_table),
                             .row_begin = view_of<const int32_t, 1>(op.row_begin),
                             .positions = view_of<const int64_t, 1>(op.positions),
                             .log_sum_exp = view_of<float, 2>(op.log_sum_exp),
                             .maximum = {},
                             .total = {},
                             .sum = {},
                             .kv_heads = int(kv_heads),
                             .group = int(group),
                             .chunks = int((group + kHeadsAtOnce - 1) / kHeadsAtOnce),
                             .scale = Exponential<bf16>::kUnit / std::sqrt(float(op.q.dim(2)))};
  (op.q.dim(2) == 64 ? launch_decode<64> : launch_decode<128>)(stream, decode, pieces);
}

}  // namespace fulgur::cuda

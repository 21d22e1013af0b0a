// What softmax attention's gradients on Hopper share. With p = exp(s - log_sum_exp): dv = p^T do, ds = p (do v^T - do
// o), dk = ds^T q and dq = ds k, the last two divided by sqrt(head_dim). One kernel owns rows and sums dq over keys
// (softmax_hopper_rows.cuh), one owns keys and sums dk and dv over rows (softmax_hopper_keys.cuh); both make p and ds.
#pragma once
#include "ops/cuda/softmax_hopper.cuh"

namespace fulgur::cuda::softmax_hopper {

struct Backward {
  View<bf16, 3> dq, dk, dv;
  View<const bf16, 3> d_o, q, k, v, o;
  View<const float, 2> log_sum_exp;
  View<float, 2> along;  // [heads, rows]: do . o, the part of the gradient that only rescales the weights
  View<const int32_t, 1> row_begin;
  View<const int64_t, 1> positions;
  int64_t sequences, kv_heads;
  int chunks, group;  // of a sequence; heads of a KV head
  int key_tiles;      // of a sequence
  int sharing;        // thread blocks that share the heads of a KV head
  float scale;        // of products
};

// do . o of every row and head: sixteen lanes take eight columns each, then add up pairwise.
inline constexpr int kAlongThreads = 256;
__device__ inline float dot(uint4 x, uint4 y) {
  float sum = 0;
  const auto both = [&](uint32_t a, uint32_t b) {
    sum = __fmaf_rn(__uint_as_float(a << 16), __uint_as_float(b << 16), sum);
    sum = __fmaf_rn(__uint_as_float(a & 0xffff0000), __uint_as_float(b & 0xffff0000), sum);
  };
  both(x.x, y.x), both(x.y, y.y), both(x.z, y.z), both(x.w, y.w);
  return sum;
}
__device__ inline void sum_along(const Backward& op) {
  const int64_t item = int64_t(blockIdx.x) * (kAlongThreads / kPieces) + threadIdx.x / kPieces;
  const int64_t heads = op.q.shape[1], row = item / heads, head = item % heads;
  const int column = int(threadIdx.x) % kPieces * 8;
  const bool there = row < op.q.shape[0];
  const auto get = [&](const View<const bf16, 3>& from) {
    return there ? *reinterpret_cast<const uint4*>(&from(row, head, column)) : uint4{};
  };
  float sum = dot(get(op.d_o), get(op.o));
#pragma unroll
  for (int mask = kPieces / 2; mask > 0; mask /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffff, sum, mask));
  if (there && column == 0) op.along(head, row) = sum;
}

// scores = a b^T over 128 columns, begun: a 64 rows, b 96 or 128.
template <int kSums>
__device__ __forceinline__ void multiply_heads(float (&scores)[kSums], const uint8_t* a, const uint8_t* b) {
  constexpr int kApart = 2 * kSums * kTileRowBytes;  // b has two rows for each of a thread's sums
  const uint64_t rows = tile_descriptor(shared_address(a)), columns = tile_descriptor(shared_address(b));
  products_begin();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint64_t row = further(rows, along(i, kTileBytes)), column = further(columns, along(i, kApart));
    if constexpr (kSums == 64) multiply_64x128x16<0, 0>(scores, row, column, i > 0);
    else multiply_64x96x16<0, 0>(scores, row, column, i > 0);
  }
  products_commit();
}

// sums = (adds ? sums : 0) + weights b, begun: b's rows are the steps, its tiles of 64 columns `apart` bytes from each
// other.
template <int kSteps>
__device__ __forceinline__ void add_rows(float (&sums)[64], const uint32_t (&weights)[kSteps][4], const uint8_t* b,
                                         int apart, bool adds) {
  const uint64_t rows = tile_descriptor(shared_address(b), apart);
  products_begin();
#pragma unroll
  for (int i = 0; i < kSteps; ++i) multiply_64x128x16<1>(sums, weights[i], further(rows, down(i)), adds || i > 0);
  products_commit();
}

}  // namespace fulgur::cuda::softmax_hopper

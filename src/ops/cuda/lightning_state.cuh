// The state S of lightning attention on Hopper in a warpgroup's registers (ops/cuda/lightning_hopper.cuh).
#pragma once
#include "ops/cuda/lightning_hopper.cuh"

namespace fulgur::cuda::hopper {

// Sixteen steps of a product: along a tile's rows and on to the next tile, or down its rows.
__device__ inline uint64_t along(int i) { return uint64_t((i / 4 * kTileBytes + i % 4 * 32) >> 4); }
__device__ inline uint64_t down(int i) { return uint64_t(i * 16 * kTileRowBytes >> 4); }

// Half of the columns of S, in a warpgroup's registers. A product's thread holds columns 8 j + 2 (t % 4) + {0, 1} of
// the tiles: they stand for columns 32 (j / 4) + 8 (t % 4) + 2 (j % 4) + {0, 1} of v, S and o, eight neighbours twice.
class StateSum {
 public:
  __device__ explicit StateSum(int thread) : row_(thread / 32 * 16 + thread % 32 / 4), quarter_(thread % 4) {}

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 32; ++i) sum_[0][i] = sum_[1][i] = 0;
  }
  // Of f32 [128, 128], from this half's first column on.
  __device__ void load(const float* state) {
    for_pieces([&](float* sum, int row, int column) {
      const float4 piece = *reinterpret_cast<const float4*>(state + row * kHeadSize + column);
      sum[0] = piece.x, sum[1] = piece.y, sum[4] = piece.z, sum[5] = piece.w;
    });
  }
  __device__ void store(float* state) {
    for_pieces([&](const float* sum, int row, int column) {
      *reinterpret_cast<float4*>(state + row * kHeadSize + column) = make_float4(sum[0], sum[1], sum[4], sum[5]);
    });
  }

  // S = fade S + k^T aged.
  __device__ void add_block(float fade, uint64_t k, uint64_t aged) {
#pragma unroll
    for (int i = 0; i < 32; ++i) sum_[0][i] *= fade, sum_[1][i] *= fade;
    settle(sum_[0]), settle(sum_[1]);
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      multiply_64x64x16<1, 1>(sum_[0], k + down(i), aged + down(i), 1);
      multiply_64x64x16<1, 1>(sum_[1], k + (kTileBytes >> 4) + down(i), aged + down(i), 1);
    }
    products_commit();
    products_wait<0>();
    settle(sum_[0]), settle(sum_[1]);
  }

  // As it enters a product.
  __device__ void copy(uint8_t (&tiles)[2][kTileBytes]) const {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 32; i += 2)
        *reinterpret_cast<uint32_t*>(tiles[t] + tile_offset(row_ + i / 2 % 2 * 8, i / 4 * 8 + quarter_ * 2)) =
            bf16_pair(sum_[t][i], sum_[t][i + 1]);
    fence_for_products();
  }

 private:
  // body(sum, row, column) for four columns, which are sum[0], sum[1], sum[4], sum[5].
  template <class Body>
  __device__ void for_pieces(const Body& body) {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
      for (int i = 0; i < 32; i += 2)
        if (i / 4 % 2 == 0)
          body(&sum_[t][i], t * 64 + row_ + i / 2 % 2 * 8, i / 16 * 32 + quarter_ * 8 + i / 4 % 4 * 2);
  }

  const int row_, quarter_;
  float sum_[2][32];  // 64 of its rows each
};

// A slot's.
__device__ inline float* state_of(const Operands& p, const Walk& walk) {
  return p.state + walk.slot * p.state_slot + walk.head * p.state_head;
}

}  // namespace fulgur::cuda::hopper

// dq of lightning attention on Hopper, forward in time: with rows i and j of a block and S before it
//   dq_i = lambda_(i+1) S do_i + sum over j <= i of lambda_(i-j) (do_i . v_j) k_j, then SiLU's gradient, and
//   S = lambda_64 S + sum over j of k_j^T (lambda_(63-j) v_j), bit by bit as forward.
// S is turned over here: a warpgroup has 64 of its columns of v, and of dq 64 columns.
#pragma once
#include "ops/cuda/lightning_hopper_backward_load.cuh"

namespace fulgur::cuda::hopper_backward {

struct QuerySweep {
  static constexpr bool kBackward = false;
  static constexpr int kStages = 3;

  struct alignas(1024) Stage {
    static constexpr bool kOfQueries = true;
    RowTiles q, d_o, raw_k, raw_v;
    __device__ uint8_t* k() { return raw_k; }
    __device__ uint8_t* v() { return raw_v; }
  };
  using Copier = hopper_backward::Copier<Stage>;
  using Activator = hopper_backward::Activator<Stage>;
  struct Shared {
    Stage stage[kStages];
    RowTiles state[2];  // S turned over, columns 64 half on of k: rows 0 to 127 of v
    Walk walk;
    Powers powers;
    Ring ring;
  };

  class Multiplier : public hopper_backward::Multiplier {
   public:
    __device__ Multiplier(const Operands& p, Shared& shared)
        : hopper_backward::Multiplier(p, shared.walk, shared.powers, int(threadIdx.x) / kWarpgroup),
          state_(shared.state) {
      load<true>(sum_, start_of<kBackward>(p, walk_));
      copy_state();
      scale(sum_, powers_.of[kBlock], powers_.of[kBlock]);
    }

    __device__ void multiply(Stage& stage, int block, uint32_t empty) {
      const uint64_t d_o = tile_descriptor(shared_address(stage.d_o)), v = tile_descriptor(shared_address(stage.v()));
      const uint64_t k = tile_descriptor(shared_address(stage.k())), own_k = k + half_ * (kTileBytes >> 4);
      const uint64_t state = tile_descriptor(shared_address(state_[half_]));
      float scores[32], dq[32];
      uint32_t weights[4][4], aged[4][4];
      products_begin();
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 0>(scores, d_o + along(i), v + along(i), i > 0);
      products_commit();
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_64x64x16<0, 1>(dq, d_o + along(i), state + down(i), i > 0);
      products_commit();
      products_wait<1>();
      weigh<kBackward>(scores, weights);
      age(aged, stage.v() + half_ * kTileBytes);
      products_wait<0>();
      scale(dq, powers_.of[row_ + 1], powers_.of[row_ + 9]);
      products_begin();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_64x64x16<1>(dq, weights[i], own_k + down(i), 1);
      products_commit();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_64x128x16<1>(sum_, aged[i], k + down(i), 1);
      products_commit();
      products_wait<1>();
      pass_silu(dq, stage.q + half_ * kTileBytes);
      products_wait<0>();
      barrier_arrive(empty);
      if (block + 1 < walk_.last) enter_next();
    }

    __device__ void leave() {}

   private:
    __device__ void enter_next() {
      named_barrier(1, kMultipliers);  // the products that read the copy are done
      copy_state();
      scale(sum_, powers_.of[kBlock], powers_.of[kBlock]);
    }
    // S as it enters the next block's product.
    __device__ void copy_state() {
      copy(sum_, state_[0] + half_ * kTileBytes, kRowsBytes);
      fence_for_products();
      named_barrier(1, kMultipliers);
    }

    RowTiles* const state_;
    float sum_[64];  // lambda_64 S turned over: rows 64 half_ on of v
  };
};

}  // namespace fulgur::cuda::hopper_backward

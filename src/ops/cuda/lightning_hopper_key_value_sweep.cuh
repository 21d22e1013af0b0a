// dk and dv of lightning attention on Hopper, backward in time: with rows i and j of a block and dS, the gradient of
// the state after it,
//   dv_j = lambda_(63-j) k_j dS + sum over i >= j of lambda_(i-j) (q_i . k_j) do_i,
//   dk_j = lambda_(63-j) dS v_j + sum over i >= j of lambda_(i-j) (do_i . v_j) q_i, then SiLU's gradients, and
//   dS = lambda_64 dS + sum over i of (lambda_(i+1) q_i)^T do_i.
// A block that is still open is in no state: its dk and dv begin with the tail's gradient, and dS passes by it. One
// warpgroup has dk, one dv, and each 64 rows of dS.
#pragma once
#include "ops/cuda/lightning_hopper_backward_load.cuh"

namespace fulgur::cuda::hopper_backward {

struct KeyValueSweep {
  static constexpr bool kBackward = true;
  static constexpr int kStages = 2;

  struct alignas(1024) Stage {
    static constexpr bool kOfQueries = false;
    RowTiles q, d_o, raw_k, raw_v, active_k, active_v;
    __device__ uint8_t* k() { return active_k; }
    __device__ uint8_t* v() { return active_v; }
  };
  using Copier = hopper_backward::Copier<Stage>;
  using Activator = hopper_backward::Activator<Stage>;
  struct Shared {
    Stage stage[kStages];
    RowTiles d_state[2];  // columns 64 half on: rows 0 to 127
    Walk walk;
    Powers powers;
    Ring ring;
  };

  // kPart 1: of dk, 2: of dv.
  template <int kPart>
  class Multiplier : public hopper_backward::Multiplier {
   public:
    __device__ Multiplier(const Operands& p, Shared& shared)
        : hopper_backward::Multiplier(p, shared.walk, shared.powers, kPart - 1), shared_(shared) {
      load<false>(sum_, start_of<kBackward>(p, walk_));
      copy_state();
      const float fade = walk_.present(walk_.last - 1) == kBlock ? powers_.of[kBlock] : 1;
      scale(sum_, fade, fade);
    }

    __device__ void multiply(Stage& stage, int block, uint32_t empty) {
      const uint64_t q = tile_descriptor(shared_address(stage.q)), d_o = tile_descriptor(shared_address(stage.d_o));
      const uint64_t own = tile_descriptor(shared_address(kPart == 1 ? stage.v() : stage.k()));
      const uint64_t d_state = tile_descriptor(shared_address(shared_.d_state), kRowsBytes);
      float scores[32], gradient[64];
      uint32_t weights[4][4], aged[4][4];
      products_begin();
#pragma unroll
      for (int i = 0; i < 8; ++i)
        multiply_64x64x16<0, 0>(scores, own + along(i), (kPart == 1 ? d_o : q) + along(i), i > 0);
      products_commit();
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (kPart == 1) multiply_64x128x16<0, 0>(gradient, own + along(i), d_state + along(i, kRowsBytes), i > 0);
        else multiply_64x128x16<0, 1>(gradient, own + along(i), d_state + down(i), i > 0);
      }
      products_commit();
      products_wait<1>();
      weigh<kBackward>(scores, weights);
      age(aged, stage.q + half_ * kTileBytes);
      products_wait<0>();
      scale(gradient, powers_.of[kBlock - 1 - row_], powers_.of[kBlock - 9 - row_]);
      if (walk_.present(block) < kBlock) begin_open(gradient, block);
      products_begin();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_64x128x16<1>(gradient, weights[i], (kPart == 1 ? q : d_o) + down(i), 1);
      products_commit();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_64x128x16<1>(sum_, aged[i], d_o + down(i), 1);
      products_commit();
      products_wait<1>();
      if (block == 0) store_held(gradient);
      pass_silu(gradient, kPart == 1 ? stage.raw_k : stage.raw_v);
      products_wait<0>();
      barrier_arrive(empty);
      if (block > walk_.first) enter_next();
    }

    __device__ void leave() {
      if (p_.slots && walk_.first == 0)
        store(sum_, p_.d_state + walk_.slot * p_.d_state_slot + walk_.head * p_.d_state_head);
    }

   private:
    // Where pair i of the tail's gradient lies.
    __device__ int64_t of_tail(int i) const { return ((kPart - 1) * kBlock + row_of(i)) * kHeadSize + column_of(i); }
    __device__ float* d_tail() const { return p_.d_tail + walk_.slot * p_.d_tail_slot + walk_.head * p_.d_tail_head; }

    __device__ void begin_open(float (&gradient)[64], int block) const {
      const int present = p_.slots ? walk_.present(block) : 0;
      const float* const from = p_.starts ? p_.starts + p_.start_of_tail(Item(p_).number) : d_tail();
      for_pairs(gradient, [&](int i, float& x, float& y) {
        const bool there = row_of(i) < present;
        x = there ? from[of_tail(i)] : 0, y = there ? from[of_tail(i) + 1] : 0;
      });
    }
    // Rows that the tail holds have passed SiLU, and their gradients go back to the tail's.
    __device__ void store_held(float (&gradient)[64]) const {
      float* const to = d_tail();
      for_pairs(gradient, [&](int i, float x, float y) {
        if (row_of(i) < walk_.held) to[of_tail(i)] = x, to[of_tail(i) + 1] = y;
      });
    }

    __device__ void enter_next() {
      named_barrier(1, kMultipliers);  // the products that read the copy are done
      copy_state();
      scale(sum_, powers_.of[kBlock], powers_.of[kBlock]);
    }
    // dS as it enters the next block's products.
    __device__ void copy_state() {
      copy(sum_, shared_.d_state[0] + half_ * kTileBytes, kRowsBytes);
      fence_for_products();
      named_barrier(1, kMultipliers);
    }

    Shared& shared_;
    float sum_[64];  // lambda_64 dS, or dS where the block is open: rows 64 half_ on
  };
};

}  // namespace fulgur::cuda::hopper_backward

// Where the segments of a long sequence start, so that its sweeps can walk them side by side: what each segment adds to
// S (k^T v of its rows, aged to its end) or to dS (q^T do, aged to its beginning), then the sums of that over segments.
#pragma once
#include "ops/cuda/lightning_hopper_backward_load.cuh"

namespace fulgur::cuda::hopper_backward {

// kBackward: of dS, else of S.
template <bool kBackwardOf>
struct SegmentSum {
  static constexpr bool kBackward = kBackwardOf;
  static constexpr int kStages = 5;

  struct alignas(1024) Stage {
    RowTiles keys, values;  // k and v, or q and do
  };
  struct Shared {
    Stage stage[kStages];
    Walk walk;
    Powers powers;
    Ring ring;
  };

  class Copier {
   public:
    __device__ Copier(const Operands& p, const Walk& walk, int thread) : p_(p), walk_(walk), pieces_(thread) {}
    __device__ void fetch(Stage& stage, int block) const {
      fetch_part(p_, walk_, pieces_, stage.keys, kBackward ? 0 : 1, block);
      if (kBackward) fetch_d_o(p_, walk_, pieces_, stage.values, block);
      else fetch_part(p_, walk_, pieces_, stage.values, 2, block);
    }
    __device__ void store(Stage&, int) const {}

   private:
    const Operands& p_;
    const Walk& walk_;
    const Pieces pieces_;
  };

  class Activator {
   public:
    __device__ Activator(const Walk& walk, int thread) : walk_(walk), pieces_(thread) {}
    __device__ void activate(Stage& stage, int block) const {
      const int held = kBackward ? 0 : walk_.held_in(block);
      pieces_.template pass_rows<true, false>(stage.keys, stage.keys, held);
      if (!kBackward) pieces_.template pass_rows<true, false>(stage.values, stage.values, held);
    }

   private:
    const Walk& walk_;
    const Pieces pieces_;
  };

  class Multiplier : public hopper_backward::Multiplier {
   public:
    __device__ Multiplier(const Operands& p, Shared& shared)
        : hopper_backward::Multiplier(p, shared.walk, shared.powers, int(threadIdx.x) / kWarpgroup) {
      load<false>(sum_, nullptr);
    }

    __device__ void multiply(Stage& stage, int block, uint32_t empty) {
      const uint64_t values = tile_descriptor(shared_address(stage.values));
      const float fade = walk_.present(block) == kBlock ? powers_.of[kBlock] : 1;
      uint32_t aged[4][4];
      age(aged, stage.keys + half_ * kTileBytes);
      scale(sum_, fade, fade);
      products_begin();
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply_64x128x16<1>(sum_, aged[i], values + down(i), 1);
      products_commit();
      products_wait<0>();
      barrier_arrive(empty);
    }

    __device__ void leave() { store(sum_, p_.starts + p_.start_of(kBackward, Item(p_).number, Item(p_).segment)); }

   private:
    float sum_[64];
  };
};

// Four numbers of one walk's S or dS: what segments add becomes what they start with, one after the other. Sums of the
// next few segments are loaded ahead.
__device__ inline void add_up_segments(const Operands& p, int64_t number, bool backward, int at) {
  const Walk walk(p, number, 0);
  const int count = (walk.blocks + kSegment - 1) / kSegment;
  const float* const from = backward ? p.d_state + walk.slot * p.d_state_slot + walk.head * p.d_state_head
                                     : p.state + walk.slot * p.state_slot + walk.head * p.state_head;
  const float decay = p.decay[walk.head];
  float4 sum = p.slots ? *reinterpret_cast<const float4*>(from + at) : float4{};
  if (backward && p.slots) {
    const float* const tail = p.d_tail + walk.slot * p.d_tail_slot + walk.head * p.d_tail_head;
    *reinterpret_cast<float4*>(p.starts + p.start_of_tail(number) + at) = *reinterpret_cast<const float4*>(tail + at);
  }
  constexpr int kAhead = 8;
  float4 ahead[kAhead];
  const auto segment_at = [&](int n) { return backward ? count - 1 - n : n; };
  const auto place = [&](int n) {
    return reinterpret_cast<float4*>(p.starts + p.start_of(backward, number, segment_at(n)) + at);
  };
  for (int first = 0; first < count; first += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i + 1 < count) ahead[i] = *place(first + i);  // nobody starts where the last one ends
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= count) break;
      const int begin = segment_at(first + i) * kSegment, end = min(begin + kSegment, walk.blocks);
      const int closed = end - begin - (walk.present(end - 1) < kBlock ? 1 : 0);
      const float fade = expf(-(decay * float(closed * kBlock)));
      *place(first + i) = sum;
      if (first + i + 1 < count) {
        sum.x = fmaf(fade, sum.x, ahead[i].x), sum.y = fmaf(fade, sum.y, ahead[i].y);
        sum.z = fmaf(fade, sum.z, ahead[i].z), sum.w = fmaf(fade, sum.w, ahead[i].w);
      }
    }
  }
}

}  // namespace fulgur::cuda::hopper_backward

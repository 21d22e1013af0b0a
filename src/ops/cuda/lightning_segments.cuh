// S of lightning attention at every multiple of a segment's tokens of long sequences, on Hopper: each segment's own sum
// by itself, then the sums in order (ops/cuda/lightning_hopper.cuh). Segments are added to in an order of their own:
// the same numbers as of a walk through the sequence, but other bits.
#pragma once
#include "ops/cuda/lightning_hopper_load.cuh"
#include "ops/cuda/lightning_state.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kSumLoaders = 3, kSumThreads = (1 + kSumLoaders) * kWarpgroup;

// A thread block has half of the value columns, and all of k.
struct alignas(1024) SumStage {
  uint8_t k[2][kTileBytes], aged[kTileBytes];
};
struct SumShared {
  SumStage stage[kStages];
  Walk walks[kFoundWalks];
  uint4 raw[kSumLoaders][kAhead * kRawWords];
  uint64_t full[kStages], empty[kStages];
};

// Half of the columns of S: after a segment, from zero on; after a sequence's first segment, from what
// the slot holds on.
__device__ inline void sum_segments(const Operands& p, const Items& items, SumShared& shared,
                                    const StageBarriers& barriers, int half) {
  StateSum sum(int(threadIdx.x));
  float fade = 0;
  Ring<kStages> stage;
  for (Cursor at(items); !at.done(); at.next(), stage.next()) {
    const Walk& walk = at.walk;
    if (at.block == 0) {
      fade = lambda(walk.decay, kGrid);
      if (walk.continues) sum.load(state_of(p, walk) + half * kHalf);
      else sum.clear();
    }
    const SumStage& tiles = shared.stage[stage.slot];
    barrier_wait(barriers.full + 8 * stage.slot, stage.parity);
    sum.add_block(fade, tile_descriptor(shared_address(tiles.k)), tile_descriptor(shared_address(tiles.aged)));
    arrive_warp(barriers.empty + 8 * stage.slot);
    if (at.last()) sum.store(start_of(p, walk.sequence, walk.end, walk.head) + half * kHalf);
  }
}

__device__ inline void load_segments(const Operands& p, const Items& items, SumShared& shared,
                                     const StageBarriers& barriers, int half, int number) {
  SumStage& first = shared.stage[0];
  Duty duty{};
  duty.part = number < 2 ? kK : kV, duty.half = number < 2 ? number : half;
  duty.stage_bytes = sizeof(SumStage), duty.raw = shared.raw[number];
  if (number < 2) duty.tile = shared_address(first.k[number]);
  else duty.aged = shared_address(first.aged);
  Loader(p, items, duty, barriers, nullptr).run();
}

// The sums of segments, which stand where the next segment begins, to S there: S = lambda^rows S + sum. A thread has
// four numbers of a head of a sequence.
__device__ inline void chain_segments(const Operands& p, int64_t thread, int sequence) {
  constexpr int kPieces = kStateSize / 4, kAhead = 8;
  const int head = int(thread / kPieces), begin = p.row_begin[sequence], rows = p.row_begin[sequence + 1] - begin;
  if (head >= p.heads || rows <= p.segment_rows()) return;
  const int past = p.slots ? int(p.positions[begin] & (p.segment_rows() - 1)) : 0,
            starts = (past + rows - 1) >> p.segment_shift;
  const int64_t step = int64_t(p.heads) * kPieces;
  float4* at =
      reinterpret_cast<float4*>(start_of(p, sequence, begin - past + p.segment_rows(), head)) + thread % kPieces;
  const float fade = lambda(p.decay[head], p.segment_rows());
  float4 s = *at, sums[kAhead];
  for (int done = 1; done < starts; done += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (done + i < starts) sums[i] = at[(i + 1) * step];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (done + i >= starts) break;
      s = make_float4(fmaf(fade, s.x, sums[i].x), fmaf(fade, s.y, sums[i].y), fmaf(fade, s.z, sums[i].z),
                      fmaf(fade, s.w, sums[i].w));
      at[(i + 1) * step] = s;
    }
    at += kAhead * step;
  }
}

}  // namespace fulgur::cuda::hopper

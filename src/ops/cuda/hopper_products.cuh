// Matrix products for Hopper: c = a b, or added to c, bf16 with f32 sums. Each sum begins with what c holds, where it
// is added to, and takes k ascending in the matrix unit's steps of 16: the bits of ops/cuda/products.cuh, whatever the
// tiles, the rows around or the turn in which a thread block computes them.
//
// Two thread blocks of a cluster compute 256 rows of c by 256 or 128 columns: each its own 128 rows of a, and half of
// b, which the copy engine puts into both. A warp loads four stages of 64 steps ahead; two warpgroups multiply 64 rows
// each, the second some stages behind the first: while one moves its sums, the other has the tensor cores to itself.
// The clusters stay and share the parts of c out.
#pragma once
#include <type_traits>

#include "ops/cuda/cluster.cuh"
#include "ops/cuda/cluster_copy.cuh"
#include "ops/cuda/hopper_sums.cuh"

namespace fulgur::cuda::hopper_products {

struct Stage {
  uint8_t a[2][kTileBytes], b[4][kTileBytes];
};
struct Shared {
  Stage stages[kStages];
  uint64_t full[kStages], empty[kStages];
  uint64_t ahead;      // whether the first warpgroup is kLag stages into its first part, or through it
  int steps[kStages];  // that are there, and kLast
};
inline constexpr int kLag = 2;
inline constexpr int kLast = 256;

// Where a role is in the ring of stages.
struct Place {
  int stage = 0;
  uint32_t round = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, ++round;
  }
};

// The warp that loads.
class Loader {
 public:
  explicit __device__ Loader(Shared& shared) : shared_(shared), rank_(int(blockIdx.x) % kCluster) {}

  template <class P>
  __device__ void visit(const P& p, const Part& part) {
    Steps steps(p.groups, part);
    for (int k = part.k; k < part.k_end;) {
      const int end = steps.end_of(k);
      barrier_wait(shared_address(&shared_.empty[place_.stage]), (place_.round + 1) % 2);
      __syncwarp();  // what is loaded may end the next round before a lane has seen that this one has
      if (threadIdx.x % 32 == 0) load(p, part, k, end - k + (end == part.k_end ? kLast : 0));
      place_.advance();
      k = end;
    }
  }

 private:
  template <class P>
  __device__ void load(const P& p, const Part& part, int k, int steps) {
    Stage& stage = shared_.stages[place_.stage];
    const uint32_t full = shared_address(&shared_.full[place_.stage]);
    shared_.steps[place_.stage] = steps;
    barrier_arrive_expecting(full, int(sizeof stage.a) + p.lines(part) * kSteps * 2);
    if constexpr (P::kTurnedA) {
      for (int i = 0; i < 2; ++i) copy_box(shared_address(stage.a[i]), p.a, part.m + i * kBoxColumns, k, 0, full);
    } else {
      copy_box(shared_address(stage.a), p.a, k, part.m, 0, full);
    }
    const int half = p.lines(part) / kCluster, n = part.n + rank_ * half;
    const uint32_t to = shared_address(stage.b) + uint32_t(rank_ * half * kTileRowBytes);
    if constexpr (std::is_same_v<P, GatedProduct>) {
      for (int i = 0; i < half; i += kBoxLines)
        copy_box_to(kBothBlocks, to + uint32_t(i * kTileRowBytes), rank_ == 0 ? p.b : p.b_up, k, part.n + i, part.group,
                    full);
    } else if constexpr (P::kTurnedB) {
      const int matrix = P::kRowsAlongK ? 0 : part.group;
      for (int i = 0; i < half; i += kBoxColumns)
        copy_box_to(kBothBlocks, to + uint32_t(i * kTileRowBytes), p.b, n + i, k, matrix, full);
    } else {
      for (int i = 0; i < half; i += kBoxLines)
        copy_box_to(kBothBlocks, to + uint32_t(i * kTileRowBytes), p.b, k, n + i, part.group, full);
    }
  }

  Shared& shared_;
  int rank_;
  Place place_;
};

template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_16(float (&sums)[kWide / 2], uint64_t a, uint64_t b) {
  multiply_64x256x16<kTurnedA, kTurnedB>(sums, a, b, 1);
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_16(float (&sums)[kNarrow / 2], uint64_t a, uint64_t b) {
  multiply_64x128x16<kTurnedA, kTurnedB>(sums, a, b, 1);
}

// A warpgroup that multiplies.
class Multiplier {
 public:
  __device__ Multiplier(Shared& shared, int number) : shared_(shared), number_(number) {}

  template <class P>
  __device__ void visit(const P& p, const Part& part) {
    if (part.k >= part.k_end) leave_nothing(p, part);
    else if (part.m + number_ * 64 >= part.m_end) pass(p, part);
    else if (p.is_wide(part)) multiply<kWide>(p, part);
    else multiply<kNarrow>(p, part);
  }

 private:
  template <int kColumns, class P>
  __device__ void multiply(const P& p, const Part& part) {
    float sums[kColumns / 2];
    const Corner<typename P::C> corner(p, part, number_);
    load_sums(sums, corner, p.adds);
    settle(sums);
    int steps = 0, before = -1;  // the stage that is still multiplied
    if (number_ == 1) barrier_wait(shared_address(&shared_.ahead), 0);
    for (int i = 1; steps < kLast; ++i) {
      steps = wait(p, part);
      if (i == kLag || steps >= kLast) be_ahead();
      Stage& stage = shared_.stages[place_.stage];
      const uint64_t a = tile_descriptor(shared_address(stage.a[number_])),
                     b = tile_descriptor(shared_address(stage.b));
      products_begin();
#pragma unroll
      for (int k = 0; k < kSteps / 16; ++k)
        multiply_16<P::kTurnedA, P::kTurnedB>(sums, further(a, k * (P::kTurnedA ? 16 * kTileRowBytes : 32)),
                                              further(b, k * (P::kTurnedB ? 16 * kTileRowBytes : 32)));
      products_commit();
      products_wait<1>();
      if (before >= 0) give_back(before);
      before = place_.stage;
      place_.advance();
    }
    products_wait<0>(sums);
    give_back(before);
    if constexpr (std::is_same_v<P, GatedProduct>) store_gated(sums, corner, p);
    else if constexpr (std::is_same_v<P, GateGradientProduct>) store_gate_gradients(sums, corner, p, part, number_);
    else store_sums(sums, corner);
  }

  // There are no steps: a sum is what it began with.
  template <class P>
  __device__ void leave_nothing(const P& p, const Part& part) {
    if (p.adds) return;
    const float none[kWide / 2] = {}, fewer[kNarrow / 2] = {};
    const Corner<typename P::C> corner(p, part, number_);
    if (p.is_wide(part)) store_sums(none, corner);
    else store_sums(fewer, corner);
  }

  // There are no rows for this warpgroup.
  template <class P>
  __device__ void pass(const P& p, const Part& part) {
    for (int steps = 0; steps < kLast; place_.advance()) steps = wait(p, part), give_back(place_.stage);
  }

  // For the next stage; its steps.
  template <class P>
  __device__ int wait(const P& p, const Part& part) {
    barrier_wait_for_copies(shared_address(&shared_.full[place_.stage]), place_.round % 2);
    const int steps = shared_.steps[place_.stage];
    if (P::kRowsAlongK && p.groups.begin && steps % kLast < kSteps)
      clear_rest(shared_.stages[place_.stage], steps % kLast, p.lines(part));
    return steps;
  }
  // Of each warp, to both blocks of the cluster.
  __device__ void give_back(int stage) {
    const uint32_t lane = threadIdx.x % 32;
    __syncwarp();
    if (lane < kCluster) barrier_arrive_there(address_in(lane, shared_address(&shared_.empty[stage])));
  }

  // What was loaded beyond the steps belongs to others: zeros instead, in the warpgroup's rows of a and all of b, where
  // the other one writes the same.
  __device__ void clear_rest(Stage& stage, int steps, int lines) {
    const int pieces = (kSteps - steps) * kTileRowBytes / 16, tiles = 1 + lines / kBoxColumns;
    for (int i = int(threadIdx.x) % kWarpgroup; i < tiles * pieces; i += kWarpgroup) {
      const int tile = i / pieces, piece = i % pieces;
      const uint8_t* const at = tile == 0 ? stage.a[number_] : stage.b[tile - 1];
      store_at(shared_address(at) + uint32_t(steps * kTileRowBytes + piece * 16), make_uint4(0, 0, 0, 0));
    }
    fence_for_products();
    named_barrier(1 + number_, kWarpgroup);
  }
  __device__ void be_ahead() {
    if (number_ == 0 && !ahead_ && threadIdx.x % kWarpgroup == 0) barrier_arrive(shared_address(&shared_.ahead));
    ahead_ = true;
  }

  Shared& shared_;
  int number_;
  bool ahead_ = false;
  Place place_;
};

__device__ inline void begin(Shared& shared) {
  if (threadIdx.x == 0) {
    barrier_init(shared_address(&shared.ahead), 1);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared_address(&shared.full[stage]), 1);
      barrier_init(shared_address(&shared.empty[stage]), kCluster * kMultipliers * kWarpgroup / 32);
    }
    barriers_are_ready();
  }
  cluster_arrive(), cluster_wait();
}

// Rows of c that belong to no group become zero, by the warps beside the one that loads. Mostly there is none.
template <class P>
__device__ void clear_rest(const P& p) {
  if (!p.groups.begin) return;
  constexpr int kAt = 16 / int(sizeof(typename P::C)), kClearers = kWarpgroup - 32;
  const auto clear = [](auto* to) { *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0); };
  for (int row = p.groups.begin[p.groups.count] + int(blockIdx.x); row < p.m; row += int(gridDim.x))
    for (int column = (int(threadIdx.x) - 32) * kAt; column < p.n; column += kClearers * kAt) {
      const int64_t at = row * p.c_row + column;
      clear(p.c + at);
      if constexpr (std::is_same_v<P, GatedProduct>)
        if (p.gate) clear(p.gate + at), clear(p.up + at);
      if constexpr (std::is_same_v<P, GateGradientProduct>) clear(p.dup + at);
    }
}

// visit_all(visitor) hands each part to visitor.visit(product, part), in the same order in every role. by_rows: the
// product whose rows of c are those of groups.
template <class P, class VisitAll>
__device__ __forceinline__ void run_roles(const P& by_rows, const VisitAll& visit_all) {
  let_next_begin();
  unsigned char* const memory = dynamic_shared();
  Shared& shared = *reinterpret_cast<Shared*>(memory + (-shared_address(memory) & 1023));
  begin(shared);
  await_previous();
  const int warpgroup = __shfl_sync(kAllLanes, int(threadIdx.x) / kWarpgroup, 0);
  if (warpgroup == 0) {
    registers_down<40>();
    if (threadIdx.x < 32) {
      Loader loader(shared);
      visit_all(loader);
    } else {
      clear_rest(by_rows);
    }
  } else {
    registers_up<232>();
    Multiplier multiplier(shared, warpgroup - 1);
    visit_all(multiplier);
  }
  cluster_arrive(), cluster_wait();  // the other block may still copy into this one's memory
}

template <class P>
__global__ void __launch_bounds__(kProductThreads, 1) multiply_output(const __grid_constant__ P p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)  // wgmma has no other architecture
  run_roles(p, [&](auto& role) { for_each_part(p, 0, 0, [&](const Part& part) { role.visit(p, part); }); });
#endif
}

// The product with the longer sums goes first; while some clusters have a part of it, the others have a head start.
struct Order {
  bool weights_first;
  int head_start;
};
template <class InputGradient>
__global__ void __launch_bounds__(kProductThreads, 1)
    multiply_gradients(const __grid_constant__ InputGradient dx,
                       const __grid_constant__ Product<Kind::weight_gradient, float> dw, Order order) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
  run_roles(dx, [&](auto& role) {
    int before = 0;
    for (int turn = 0; turn < 2; ++turn) {
      const int head_start = turn * order.head_start;
      if (order.weights_first == (turn == 0))
        before = for_each_part(dw, before, head_start, [&](const Part& part) { role.visit(dw, part); });
      else before = for_each_part(dx, before, head_start, [&](const Part& part) { role.visit(dx, part); });
    }
  });
#endif
}

}  // namespace fulgur::cuda::hopper_products

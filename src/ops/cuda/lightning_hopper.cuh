// Lightning attention forward on Hopper: bf16, heads of 128. A cluster of two thread blocks walks the blocks of 64 rows
// of a head, each with half of the value columns. In each, two warpgroups load half of q's and k's columns and apply
// SiLU (ops/cuda/lightning_hopper_load.cuh), pass them on to the other block, and one warpgroup each computes o and
// carries S forward (ops/cuda/lightning_hopper_products.cuh).
//
// What decides a result's bits, for whoever computes the same rows by another kernel (spec/model.md 8.9):
// - silu below; lambda_n = expf(-(decay * float(n))); every product is m64n64k16, its k in ascending steps of 16;
// - q k^T and q S begin at zero over the 128 columns of q; o = lambda_(i + 1) * q S, to which P v is added;
// - S is multiplied by lambda_64, and k^T times the decayed v, bf16(lambda_(63 - j) v_j), is added over j;
// - squares: per half of the columns and quarter t of a row, one chain of fused additions over columns 8 t ... 8 t + 7
//   and 32 + 8 t ... 32 + 8 t + 7, from zero on; ((t0 + t1) + (t2 + t3)) of the first half plus that of the second.
#pragma once
#include "base/grid.h"
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/cluster_copy.cuh"
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kHeadSize = 128, kHalf = 64;
inline constexpr int kWarpgroup = 128, kLoaders = 256, kThreads = 2 * kWarpgroup + kLoaders;
inline constexpr int kStages = 3, kCopies = 2;

struct Operands {
  bf16* o;
  const bf16* qkv;
  const float* decay;
  const int32_t* row_begin;
  const int64_t* positions;
  const int32_t* slots;  // null: nothing is remembered
  float* state;
  bf16* tail;
  float* squares;  // null: not wanted
  int heads, items;
  // Elements between rows, heads, parts and slots.
  int64_t o_row, o_head, qkv_row, qkv_head, qkv_part, state_slot, state_head, tail_slot, tail_head, squares_head;
};

// One head of a sequence, its rows cut into blocks of 64 by their positions.
struct Walk {
  int head = 0, begin = 0, end = 0, slot = 0;  // batch rows from begin to end
  int blocks = 0, held = 0;                    // rows of the first block that the tail holds

  Walk() = default;
  __device__ Walk(const Operands& p, int item) : head(item % p.heads) {
    const int sequence = item / p.heads;
    begin = p.row_begin[sequence], end = p.row_begin[sequence + 1];
    if (begin == end) return;
    if (p.slots) held = int(p.positions[begin] % kGrid), slot = p.slots[sequence];
    blocks = int(held + end - begin + kGrid - 1) / int(kGrid);
  }
};

// Goes through the blocks of a cluster's items.
class Cursor {
 public:
  __device__ explicit Cursor(const Operands& p) : p_(p), item_(int(blockIdx.x / 2)) { seek(); }
  __device__ bool done() const { return item_ >= p_.items; }
  __device__ void next() {
    if (++block < walk.blocks) return;
    item_ += int(gridDim.x / 2);
    seek();
  }
  // Rows of the block that are there, those of the tail among them.
  __device__ int present() const { return min(walk.end - first_row(), int(kGrid)); }
  __device__ int held() const { return block == 0 ? walk.held : 0; }
  __device__ int first_row() const { return walk.begin - walk.held + block * int(kGrid); }
  __device__ bool last() const { return block + 1 == walk.blocks; }

  Walk walk;
  int block = 0;

 private:
  __device__ void seek() {
    block = 0;
    for (; item_ < p_.items; item_ += int(gridDim.x / 2)) {
      walk = Walk(p_, item_);
      if (walk.blocks > 0) return;
    }
  }

  const Operands& p_;
  int item_;
};

struct alignas(1024) Stage {
  uint8_t q[2][kTileBytes], k[2][kTileBytes], v[kTileBytes], aged[kTileBytes];
};
struct Shared {
  Stage stage[kStages];
  uint8_t state[kCopies][2][kTileBytes];
  // Sums of squares of a stage's rows, from both halves, and where they go: null where nowhere. In the first block.
  float squares[kStages][2][kGrid];
  float* squares_at[kStages][kGrid];
  // Of a stage; of a copy of S.
  uint64_t full[kStages], empty[kStages], copied[kCopies], read[kCopies];
};

// A place in a ring of kSlots, and the parity of its barriers' phase.
template <int kSlots>
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++slot < kSlots) return;
    slot = 0, parity ^= 1;
  }
};

// The addresses of a block's barriers; what is added to one for the other block's.
struct Barriers {
  uint32_t full, empty, copied, read, there;
  __device__ Barriers(Shared& shared, int half)
      : full(shared_address(shared.full)),
        empty(shared_address(shared.empty)),
        copied(shared_address(shared.copied)),
        read(shared_address(shared.read)),
        there(address_in(uint32_t(1 - half), full) - full) {}
  // By one thread: data of a warp's loaders, of both blocks' consumers; a copy's writers and readers.
  __device__ void begin() const {
    for (int i = 0; i < kStages; ++i)
      barrier_init(full + 8 * i, kLoaders / 32), barrier_init(empty + 8 * i, 2 * 2 * kWarpgroup / 32);
    for (int i = 0; i < kCopies; ++i)
      barrier_init(copied + 8 * i, kWarpgroup / 32), barrier_init(read + 8 * i, kWarpgroup / 32);
  }
  // Of a warp that has read a stage: both blocks may write it. `sent`: bytes that the other block's warp sends here.
  __device__ void arrive_empty(int slot, int sent) const {
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    if (sent > 0) barrier_arrive_expecting(empty + 8 * slot, sent);
    else barrier_arrive(empty + 8 * slot);
    barrier_arrive_there(empty + 8 * slot + there);
  }
};
// All lanes have done what the barrier stands for.
__device__ inline void arrive_warp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

__device__ inline float lambda(float decay, int n) { return expf(-(decay * float(n))); }

// Sixteen bytes that are read once.
__device__ inline uint4 get(const bf16* from) { return __ldcs(reinterpret_cast<const uint4*>(from)); }
template <class T>
__device__ void put(T* to, uint4 piece) {
  *reinterpret_cast<uint4*>(to) = piece;
}

// x / (1 + exp(-x)) as half x (1 + tanh(half x)): one instruction of the special function unit.
__device__ inline float silu(float x) {
  const float half = 0.5F * x;
  return fmaf(half, tanh_approximate(half), half);
}
// f of each of eight numbers.
template <class Function>
__device__ inline uint4 mapped(uint4 x, const Function& f) {
  const auto both = [&](uint32_t pair) {
    return bf16_pair(f(__uint_as_float(pair << 16)), f(__uint_as_float(pair & 0xffff0000)));
  };
  return {both(x.x), both(x.y), both(x.z), both(x.w)};
}
__device__ inline uint4 activated(uint4 x) {
  return mapped(x, [](float v) { return silu(v); });
}

}  // namespace fulgur::cuda::hopper

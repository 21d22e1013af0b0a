// Lightning attention forward on Hopper: bf16, heads of 128. A cluster of two thread blocks walks the blocks of 64 rows
// of a head, each with half of the value columns. In each, three warpgroups load half of the columns of q, k and v,
// apply SiLU, and pass q and k on to the other block (ops/cuda/lightning_hopper_load.cuh); one warpgroup computes o,
// one carries S forward (ops/cuda/lightning_hopper_products.cuh). There are as many clusters as run at once; they
// take the sequences' heads in turn, and their loaders run ahead into the next one.
//
// What decides a result's bits, for whoever computes the same rows by another kernel (spec/model.md 8.9):
// - silu and lambda below; q, k and v are rounded after SiLU; every product is m64n64k16, its k in ascending steps of
//   16;
// - scores = q k^T and q S begin at zero and run over the 128 columns of q; o = lambda_(i + 1) (q S), to which
//   bf16(lambda_(i - j) score) v_j is added; S enters as bf16;
// - after a full block S = lambda_64 S, to which k_j^T bf16(lambda_(63 - j) v_j) is added;
// - squares: per half of the columns and quarter t of a row, one chain of fused additions over columns 8 t ... 8 t + 7
//   and 32 + 8 t ... 32 + 8 t + 7, from zero on; ((t0 + t1) + (t2 + t3)) of the first half plus that of the second.
#pragma once
#include "base/grid.h"
#include "ops/cuda/cluster.cuh"
#include "ops/cuda/cluster_copy.cuh"
#include "ops/cuda/hopper.cuh"

namespace fulgur::cuda::hopper {

inline constexpr int kHeadSize = 128, kHalf = 64, kStateSize = kHeadSize * kHeadSize;
inline constexpr int kWarpgroup = 128, kStages = 3;

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
  // Segments of a sequence, at most; 1: none is cut. Rows of one, as a power of two, since divisions by any number
  // would take registers of every loop that finds its next item: a long sequence is cut at multiples of its positions.
  // Then S before every segment but a sequence's first, f32 [rows / segment_rows + (sequences with slots, or 1), heads,
  // 128, 128], is given, or to be found.
  int segments = 1, segment_shift = 0;
  float* starts = nullptr;
  bool finds_starts = false;
  int heads, items;  // segments of all sequences times heads
  __device__ int segment_rows() const { return 1 << segment_shift; }
  // Elements between rows, heads, parts and slots.
  int64_t o_row, o_head, qkv_row, qkv_head, qkv_part, state_slot, state_head, tail_slot, tail_head, squares_head;
};

// One head of a sequence or of a segment of it, its rows cut into blocks of 64 by their positions.
struct Walk {
  int head = 0, sequence = 0, slot = 0;
  int begin = 0, end = 0;          // batch rows
  int blocks = 0, held = 0;        // rows of the first block that the tail holds
  bool first = true, last = true;  // segment of its sequence
  bool continues = false;          // a sequence of which the slot holds a state
  float decay = 0;

  Walk() = default;
  __device__ Walk(const Operands& p, int item) : head(item % p.heads), sequence(item / p.heads / p.segments) {
    const int segment = item / p.heads % p.segments;
    begin = p.row_begin[sequence], end = p.row_begin[sequence + 1];
    if (begin == end) return;
    const int64_t position = p.slots ? p.positions[begin] : 0;
    if (p.slots) slot = p.slots[sequence];
    if (segment > 0 || (p.segments > 1 && end - begin > p.segment_rows()))
      cut(segment, int(position & (p.segment_rows() - 1)), p.segment_rows());
    if (begin >= end || (p.finds_starts && last)) return;
    decay = p.decay[head];
    held = first ? int(position % kGrid) : 0, continues = first && position >= kGrid;
    blocks = (held + end - begin + int(kGrid) - 1) / int(kGrid);
  }

 private:
  // `past`: rows of the sequence since a multiple of `rows`.
  __device__ void cut(int segment, int past, int rows) {
    const int here = end - begin > rows ? begin - past + segment * rows : end;
    first = segment == 0, last = end <= here + rows;
    begin = first ? begin : here, end = last ? end : here + rows;
  }
};

// S before a segment that is not its sequence's first. Without slots those begin at least segment_rows apart.
__device__ inline float* start_of(const Operands& p, int sequence, int begin, int head) {
  return p.starts + (int64_t((begin >> p.segment_shift) + (p.slots ? sequence : 0)) * p.heads + head) * kStateSize;
}

// The items of two thread blocks, which take one in as many as there are such pairs. The first ones are found by all
// threads together, as each takes several reads of global memory that wait for one another.
inline constexpr int kFoundWalks = 64;
class Items {
 public:
  __device__ Items(const Operands& p, Walk* found) : p_(p), found_(found) {}
  __device__ int item(int number) const { return int(blockIdx.x / 2) + number * int(gridDim.x / 2); }
  __device__ bool done(int number) const { return item(number) >= p_.items; }
  __device__ Walk operator[](int number) const {
    return number < kFoundWalks ? found_[number] : Walk(p_, item(number));
  }
  // To be called by all threads, before a barrier.
  __device__ void find() const {
    for (int i = int(threadIdx.x); i < kFoundWalks && !done(i); i += int(blockDim.x)) found_[i] = Walk(p_, item(i));
  }
  // The first item from `number` on that has rows.
  __device__ int next(int number) const {
    while (!done(number) && (*this)[number].blocks == 0) ++number;
    return number;
  }

 private:
  const Operands& p_;
  Walk* const found_;
};

// Goes through the blocks of a pair's items.
class Cursor {
 public:
  __device__ explicit Cursor(const Items& items) : items_(&items) { seek(); }
  __device__ bool done() const { return items_->done(number_); }
  __device__ void next() {
    if (++block < walk.blocks) return;
    ++number_;
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
    block = 0, number_ = items_->next(number_);
    if (!done()) walk = (*items_)[number_];
  }

  const Items* items_;
  int number_ = 0;
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

// All lanes have done what the barrier stands for.
__device__ inline void arrive_warp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

__device__ inline float lambda(float decay, int n) { return expf(-(decay * float(n))); }

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

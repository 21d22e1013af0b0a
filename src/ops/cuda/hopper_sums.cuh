// A thread's sums of a product for Hopper (ops/cuda/hopper.cuh), from and to c in memory.
//
// The matrix unit leaves a thread pairs of columns, four threads of a row the eight of a block. Pairs of bf16 are
// exchanged before they are stored, so that each thread stores 16 bytes at once.
#pragma once
#include "ops/cuda/gates.cuh"
#include "ops/cuda/hopper.cuh"
#include "ops/cuda/hopper_parts.cuh"

namespace fulgur::cuda::hopper_products {

// Of a warpgroup's rows, a thread's first one; the other is eight below.
__device__ inline int rows_down(int warpgroup) {
  const int thread = int(threadIdx.x) % kWarpgroup;
  return warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4;
}

// Where a thread's sums are in c.
template <class C>
struct Corner {
  C* at;  // its first row's first column of the part
  int64_t row;
  int rows_left, columns_left;  // from there on

  template <class P>
  __device__ Corner(const P& p, const Part& part, int warpgroup) : row(p.c_row) {
    const int down = rows_down(warpgroup);
    at = p.c + part.group * p.groups.c_apart + (part.m + down) * row + part.n;
    rows_left = part.m_end - part.m - down, columns_left = p.n - part.n;
  }
  __device__ bool has(int down, int column) const { return down < rows_left && column < columns_left; }
};

__device__ inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000); }

__device__ inline int place_in_row() { return int(threadIdx.x % 4); }

// From four blocks' pairs of a thread's columns to the four pairs of one block, that of its place.
__device__ inline void turn_pairs(uint32_t (&pairs)[4]) {
  const bool odd = place_in_row() & 1, high = place_in_row() & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, odd ? pairs[i] : pairs[i + 1], 1);
    pairs[i] = odd ? got : pairs[i], pairs[i + 1] = odd ? pairs[i + 1] : got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, high ? pairs[i] : pairs[i + 2], 2);
    pairs[i] = high ? got : pairs[i], pairs[i + 2] = high ? pairs[i + 2] : got;
  }
}
__device__ inline float2 pair_at(const float* c) { return *reinterpret_cast<const float2*>(c); }
__device__ inline float2 pair_at(const bf16* c) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(c);
  return {low_half(pair), high_half(pair)};
}
__device__ inline int pair_column(int i) { return i / 4 * 8 + place_in_row() * 2; }

template <int kSums, class C>
__device__ inline void load_sums(float (&sums)[kSums], const Corner<C>& corner, bool adds) {
#pragma unroll
  for (int i = 0; i < kSums; i += 2) {
    const int down = i / 2 % 2 * 8, column = pair_column(i);
    float2 pair = {0, 0};
    if (adds && corner.has(down, column)) pair = pair_at(corner.at + down * corner.row + column);
    sums[i] = pair.x, sums[i + 1] = pair.y;
  }
}

template <int kSums>
__device__ inline void store_sums(const float (&sums)[kSums], const Corner<float>& corner) {
#pragma unroll
  for (int i = 0; i < kSums; i += 2) {
    const int down = i / 2 % 2 * 8, column = pair_column(i);
    if (corner.has(down, column))
      *reinterpret_cast<float2*>(corner.at + down * corner.row + column) = {sums[i], sums[i + 1]};
  }
}

// Pairs of four blocks, which are turned on the way.
__device__ inline void store_pairs(bf16* to, uint32_t (&pairs)[4], bool inside) {
  turn_pairs(pairs);
  if (inside) *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
template <int kSums>
__device__ inline void store_sums(const float (&sums)[kSums], const Corner<bf16>& corner) {
#pragma unroll
  for (int i = 0; i < kSums; i += 16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = i / 4 * 8 + place_in_row() * 8;
      uint32_t pairs[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) pairs[k] = bf16_pair(sums[i + 4 * k + 2 * half], sums[i + 4 * k + 2 * half + 1]);
      store_pairs(corner.at + 8 * half * corner.row + column, pairs, corner.has(8 * half, column));
    }
  }
}
// SiLU(gate) * up of their rounded values, the gate's sums first.
template <int kSums>
__device__ inline void store_gated(const float (&sums)[kSums], const Corner<bf16>& corner, const GatedProduct& p) {
#pragma unroll
  for (int i = 0; i < kSums / 2; i += 16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = i / 4 * 8 + place_in_row() * 8;
      uint32_t gates[4], ups[4], y[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* const at = sums + i + 4 * k + 2 * half;
        gates[k] = bf16_pair(at[0], at[1]), ups[k] = bf16_pair(at[kSums / 2], at[kSums / 2 + 1]);
        y[k] = bf16_pair(gated(low_half(gates[k]), low_half(ups[k])), gated(high_half(gates[k]), high_half(ups[k])));
      }
      bf16* const to = corner.at + 8 * half * corner.row + column;
      const bool inside = corner.has(8 * half, column);
      store_pairs(to, y, inside);
      if (!p.gate) continue;
      store_pairs(p.gate + (to - p.c), gates, inside), store_pairs(p.up + (to - p.c), ups, inside);
    }
  }
}

// Eight columns of gate and up, as they are multiplied.
struct GateChunk {
  uint4 gate, up;
};
// The gradients of gate and up, of what the sums round to. Chunks of both are on their way some blocks ahead.
template <int kSums>
__device__ inline void store_gate_gradients(const float (&sums)[kSums], const Corner<bf16>& corner,
                                            const GateGradientProduct& p, const Part& part, int warpgroup) {
  constexpr int kChunks = kSums / 8, kAhead = 4;  // chunk c: columns of sums 16 (c / 2) on, c % 2 times eight rows down
  const int64_t offset = corner.at - p.c, gate_offset = (part.m + rows_down(warpgroup)) * p.gate_row + part.n;
  const auto place_of = [&](int c, int64_t row) { return c % 2 * 8 * row + (c / 2 * 4 + place_in_row()) * 8; };
  const auto inside = [&](int c) { return corner.has(c % 2 * 8, (c / 2 * 4 + place_in_row()) * 8); };
  GateChunk chunks[kAhead] = {};
  const auto fetch = [&](int c) {
    const int64_t at = gate_offset + place_of(c, p.gate_row);
    if (inside(c))
      chunks[c % kAhead] = {*reinterpret_cast<const uint4*>(p.gate + at), *reinterpret_cast<const uint4*>(p.up + at)};
  };
#pragma unroll
  for (int c = 0; c < kAhead; ++c) fetch(c);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    uint32_t d[4], d_gate[4], d_up[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float* const at = sums + c / 2 * 16 + 4 * k + 2 * (c % 2);
      d[k] = bf16_pair(at[0], at[1]);
    }
    turn_pairs(d);
    const GateChunk now = chunks[c % kAhead];
    const uint32_t gates[] = {now.gate.x, now.gate.y, now.gate.z, now.gate.w},
                   ups[] = {now.up.x, now.up.y, now.up.z, now.up.w};
    if (c + kAhead < kChunks) fetch(c + kAhead);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const GateGradients low = gate_gradients(low_half(d[k]), low_half(gates[k]), low_half(ups[k])),
                          high = gate_gradients(high_half(d[k]), high_half(gates[k]), high_half(ups[k]));
      d_gate[k] = bf16_pair(low.gate, high.gate), d_up[k] = bf16_pair(low.up, high.up);
    }
    if (!inside(c)) continue;
    const int64_t at = offset + place_of(c, corner.row);
    *reinterpret_cast<uint4*>(p.c + at) = make_uint4(d_gate[0], d_gate[1], d_gate[2], d_gate[3]);
    *reinterpret_cast<uint4*>(p.dup + at) = make_uint4(d_up[0], d_up[1], d_up[2], d_up[3]);
  }
}

}  // namespace fulgur::cuda::hopper_products

// Stands in for src/ops/cuda/hopper.cuh (emulator.h): barriers in shared memory are two words, a product of a warpgroup
// is done where it is asked for, with sums in f64.
#pragma once
#include "ops/cuda/matrix_unit.cuh"
#include "ops/cuda/swizzled_tile.cuh"

namespace fulgur::cuda {

// How many arrivals a phase takes, how many are missing, how many bytes are announced and not copied, and the phase.
struct SharedBarrier {
  uint64_t expected : 12, missing : 12;
  int64_t bytes : 24;
  uint64_t phase : 16;
};
inline SharedBarrier& barrier_at(uint32_t address) {
  return *reinterpret_cast<SharedBarrier*>(emulator::shared_memory() + address);
}
inline void barrier_init(uint32_t barrier, int arrivals) {
  barrier_at(barrier) = {uint64_t(arrivals), uint64_t(arrivals), 0, 0};
}
inline void barriers_are_ready() {}
inline void end_phase(SharedBarrier& b) {
  if (b.missing == 0 && b.bytes == 0) b.missing = b.expected, ++b.phase;
}
inline void arrive(SharedBarrier& b) {
  if (b.missing == 0) emulator::complain("more arrivals at a barrier than it takes");
  --b.missing, end_phase(b);
}
inline void barrier_arrive(uint32_t barrier) { arrive(barrier_at(barrier)); }
inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  while (barrier_at(barrier).phase % 2 == parity) emulator::yield();
}
inline void fence_for_products() {}
template <class Words>
void store_at(uint32_t address, const Words& words) {
  if (address % sizeof words != 0) emulator::complain("an unaligned store");
  std::memcpy(emulator::shared_memory() + address, &words, sizeof words);
}
inline void named_barrier(int id, int threads) { emulator::named_barrier(id, unsigned(threads)); }
inline void named_barrier_arrive(int id, int threads) { emulator::named_barrier_arrive(id, unsigned(threads)); }
inline void products_begin() {}
inline void products_commit() {}
template <int>
void products_wait() {}
template <int kNumbers>
void settle(float (&)[kNumbers]) {}
template <int kWords>
void settle(uint32_t (&)[kWords]) {}
template <int, int kSums>
void products_wait(float (&)[kSums]) {}
template <int>
void registers_up() {}
template <int>
void registers_down() {}
inline float tanh_approximate(float x) { return std::tanh(x); }
inline float exp2_approximate(float x) { return std::exp2(x); }
inline uint32_t f16_pair(float first, float second) {
  const _Float16 pair[] = {_Float16(first), _Float16(second)};
  return __builtin_bit_cast(uint32_t, pair);
}
inline float2 numbers_of_f16(uint32_t pair) {
  _Float16 numbers[2];
  std::memcpy(numbers, &pair, sizeof pair);
  return {float(numbers[0]), float(numbers[1])};
}

inline uint32_t bf16_pair_times(uint32_t a, uint32_t b) {
  return bf16_pair(number_of(a, 0) * number_of(b, 0), number_of(a, 1) * number_of(b, 1));
}
// Rounded twice, to f32 and to bf16: of sums that f32 holds.
inline uint32_t bf16_pair_times_plus(uint32_t a, uint32_t b, uint32_t c) {
  return bf16_pair(std::fmaf(number_of(a, 0), number_of(b, 0), number_of(c, 0)),
                   std::fmaf(number_of(a, 1), number_of(b, 1), number_of(c, 1)));
}

inline uint32_t positive_zeros(uint32_t pair) {
  const uint32_t first = pair & 0xffff, second = pair >> 16;
  return (first == 0x8000 ? 0 : first) | (second == 0x8000 ? 0 : second) << 16;
}

inline uint64_t tile_descriptor(uint32_t address, int apart = kTileBytes) {
  return uint64_t(apart >> 4) << 32 | (address & 0x3ffff) >> 4;
}
inline uint64_t further(uint64_t descriptor, int bytes) { return descriptor + uint64_t(bytes >> 4); }

// Element (row, column) of tiles from a descriptor on: the swizzle works on addresses.
inline float element_at(uint64_t descriptor, int row, int column) {
  const uint32_t address = uint32_t(descriptor << 4) + uint32_t(row * kTileRowBytes + column * 2);
  uint16_t bits;
  std::memcpy(&bits, emulator::shared_memory() + (address ^ (address >> 3 & 0x70)), sizeof bits);
  return __uint_as_float(uint32_t(bits) << 16);
}

// d = (adds ? d : 0) + a b, where a(row, step) is given.
template <int kTurnedB, int kSums, class Rows>
void multiply_of(float (&d)[kSums], const Rows& a, uint64_t b, int adds) {
  const int thread = int(emulator::thread_number() % 128), row = thread / 32 * 16 + thread % 32 / 4;
  for (int i = 0; i < kSums; ++i) {
    const int r = row + i / 2 % 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    const uint64_t tile = b + (kTurnedB ? uint64_t(column / 64) * (b >> 32) : 0);
    double sum = 0;
    for (int step = 0; step < 16; ++step)
      sum += double(a(r, step)) * double(kTurnedB ? element_at(tile, step, column % 64) : element_at(b, column, step));
    d[i] = float((adds ? double(d[i]) : 0) + sum);
  }
}
template <int kTurnedA, int kTurnedB, int kSums>
void multiply(float (&d)[kSums], uint64_t a, uint64_t b, int adds) {
  multiply_of<kTurnedB>(
      d, [=](int row, int step) { return kTurnedA ? element_at(a, step, row) : element_at(a, row, step); }, b, adds);
}
template <int kTurnedB, int kSums>
void multiply(float (&d)[kSums], const uint32_t (&a)[4], uint64_t b, int adds) {
  std::memcpy(emulator::warp_slot(unsigned(lane_number())), a, sizeof a);
  emulator::warp_barrier();
  multiply_of<kTurnedB>(
      d, [](int row, int step) { return element_of_rows(row % 16, step); }, b, adds);
  emulator::warp_barrier();
}

template <int kTurnedA, int kTurnedB>
void multiply_64x64x16(float (&d)[32], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedA, int kTurnedB>
void multiply_64x96x16(float (&d)[48], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedA, int kTurnedB>
void multiply_64x128x16(float (&d)[64], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedA, int kTurnedB>
void multiply_64x256x16(float (&d)[128], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedA, int kTurnedB>
void multiply_64x32x16(float (&d)[16], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedA, int kTurnedB>
void multiply_64x16x16(float (&d)[8], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedA, int kTurnedB>
void multiply_64x8x16(float (&d)[4], uint64_t a, uint64_t b, int adds) {
  multiply<kTurnedA, kTurnedB>(d, a, b, adds);
}
template <int kTurnedB>
void multiply_64x16x16(float (&d)[8], const uint32_t (&a)[4], uint64_t b, int adds) {
  multiply<kTurnedB>(d, a, b, adds);
}
template <int kTurnedB>
void multiply_64x32x16(float (&d)[16], const uint32_t (&a)[4], uint64_t b, int adds) {
  multiply<kTurnedB>(d, a, b, adds);
}
template <int kTurnedB>
void multiply_64x64x16(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int adds) {
  multiply<kTurnedB>(d, a, b, adds);
}
template <int kTurnedB>
void multiply_64x128x16(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int adds) {
  multiply<kTurnedB>(d, a, b, adds);
}

}  // namespace fulgur::cuda

// What Hopper's kernels share: barriers in shared memory, and warpgroup products on swizzled tiles, in inline PTX.
#pragma once
#include <cstdint>

#include "ops/cuda/matrix_unit.cuh"
#include "ops/cuda/swizzled_tile.cuh"

namespace fulgur::cuda {

__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra out;\nbra "
      "wait;\n"
      "out:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// After barrier_init, before the cluster's threads meet.
__device__ inline void barriers_are_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Ordinary stores to shared memory become visible to the tensor cores.
__device__ inline void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// To a shared address, a multiple of the stored bytes.
__device__ inline void store_at(uint32_t address, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}
__device__ inline void store_at(uint32_t address, uint4 words) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words.x), "r"(words.y), "r"(words.z),
               "r"(words.w)
               : "memory");
}
__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Counts the thread in without waiting.
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler moves no computation of these numbers past this place: between it and a product that reads or writes
// them.
template <int kNumbers>
__device__ inline void settle(float (&numbers)[kNumbers]) {
#pragma unroll
  for (int i = 0; i < kNumbers; ++i) asm volatile("" : "+f"(numbers[i])::"memory");
}
template <int kWords>
__device__ inline void settle(uint32_t (&words)[kWords]) {
#pragma unroll
  for (int i = 0; i < kWords; ++i) asm volatile("" : "+r"(words[i])::"memory");
}
// The same as products_wait, and the compiler reads none of these sums before it.
template <int kPending, int kSums>
__device__ __forceinline__ void products_wait(float (&sums)[kSums]) {
  products_wait<kPending>();
  settle(sums);
}
template <int kRegisters>
__device__ inline void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// One instruction of the special function unit; off by up to 2^-11 of the result.
__device__ inline float tanh_approximate(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 2^x, off by up to 2^-22 of the result; zero below 2^-126.
__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A pair of bf16, -0 as 0.
__device__ inline uint32_t positive_zeros(uint32_t pair) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(pair), "r"(0x3f803f80), "r"(0));
  return sum;
}

// a * b of pairs of bf16, rounded to nearest even.
__device__ inline uint32_t bf16_pair_times(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}
// a * b + c of pairs of bf16, rounded once.
__device__ inline uint32_t bf16_pair_times_plus(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}

// Two numbers as f16, rounded to nearest even, the first in the low half; and back.
__device__ inline uint32_t f16_pair(float first, float second) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
__device__ inline float2 numbers_of_f16(uint32_t pair) {
  float2 numbers;
  asm("{\n.reg .f16 first, second;\nmov.b32 {first, second}, %2;\ncvt.f32.f16 %0, first;\ncvt.f32.f16 %1, second;\n}"
      : "=f"(numbers.x), "=f"(numbers.y)
      : "r"(pair));
  return numbers;
}

// Of a tile at a shared address. Where an operand is turned over and has more than 64 columns, its tiles of 64 columns
// begin `apart` bytes from each other.
__device__ inline uint64_t tile_descriptor(uint32_t address, int apart = kTileBytes) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(apart >> 4) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}
// A number of bytes further, which changes the lower half only.
__device__ inline uint64_t further(uint64_t descriptor, int bytes) {
  return (descriptor & 0xffffffff00000000) | uint32_t(uint32_t(descriptor) + uint32_t(bytes >> 4));
}

// The registers of 32 sums, d[at] on, and their names in PTX.
#define FULGUR_SUMS_8(d, at)                                                                                         \
  "+f"(d[at]), "+f"(d[at + 1]), "+f"(d[at + 2]), "+f"(d[at + 3]), "+f"(d[at + 4]), "+f"(d[at + 5]), "+f"(d[at + 6]), \
      "+f"(d[at + 7])
#define FULGUR_SUMS_32(d, at) \
  FULGUR_SUMS_8(d, at), FULGUR_SUMS_8(d, at + 8), FULGUR_SUMS_8(d, at + 16), FULGUR_SUMS_8(d, at + 24)
#define FULGUR_NAMES_32                                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FULGUR_NAMES_48 \
  FULGUR_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FULGUR_NAMES_64                                                                                              \
  FULGUR_NAMES_32                                                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define FULGUR_NAMES_128                                                                                         \
  FULGUR_NAMES_64                                                                                                \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, "  \
  "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "    \
  "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
  "%123, %124, %125, %126, %127"

// d[64, N] = (adds ? d : 0) + a[64, 16] b[16, N], f32 sums of bf16, N = 8, 16, 32, 64, 96, 128
// or 256. Thread t of the warpgroup holds,
// with g = t % 32 / 4 and row = t / 32 * 16 + g: d[4 j + {0, 1}] = (row, 8 j + t % 4 * 2 + {0, 1}), d[4 j + {2, 3}]
// eight rows below. kTurnedA, kTurnedB: k runs down the tile's rows. Of b with N > 64, columns 64 on are the tile's
// rows 64 on; where it is turned over, they are in the tile that begins `apart` bytes later.
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x64x16(float (&d)[32], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FULGUR_NAMES_32 "}, %32, %33, p, 1, 1, %35, %36;\n}"
      : FULGUR_SUMS_32(d, 0)
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x128x16(float (&d)[64], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FULGUR_NAMES_64 "}, %64, %65, p, 1, 1, %67, %68;\n}"
      : FULGUR_SUMS_32(d, 0), FULGUR_SUMS_32(d, 32)
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x96x16(float (&d)[48], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {" FULGUR_NAMES_48 "}, %48, %49, p, 1, 1, %51, %52;\n}"
      : FULGUR_SUMS_32(d, 0), FULGUR_SUMS_8(d, 32), FULGUR_SUMS_8(d, 40)
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x256x16(float (&d)[128], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" FULGUR_NAMES_128
      "}, %128, %129, p, 1, 1, %131, %132;\n}"
      : FULGUR_SUMS_32(d, 0), FULGUR_SUMS_32(d, 32), FULGUR_SUMS_32(d, 64), FULGUR_SUMS_32(d, 96)
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x32x16(float (&d)[16], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15}, %16, %17, p, 1, 1, %19, %20;\n}"
      : FULGUR_SUMS_8(d, 0), FULGUR_SUMS_8(d, 8)
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x16x16(float (&d)[8], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1, %11, "
      "%12;\n}"
      : FULGUR_SUMS_8(d, 0)
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
template <int kTurnedA, int kTurnedB>
__device__ inline void multiply_64x8x16(float (&d)[4], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, %7, %8;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b), "r"(adds), "n"(kTurnedA), "n"(kTurnedB));
}
// The same with a in registers: {row g: k, k + 1 of t % 4 * 2}, eight rows below, eight steps on, both. N = 16, 32, 64
// or 128.
template <int kTurnedB>
__device__ inline void multiply_64x16x16(float (&d)[8], const uint32_t (&a)[4], uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, "
      "p, 1, 1, %14;\n}"
      : FULGUR_SUMS_8(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kTurnedB));
}
template <int kTurnedB>
__device__ inline void multiply_64x32x16(float (&d)[16], const uint32_t (&a)[4], uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15}, {%16, %17, %18, %19}, %20, p, 1, 1, %22;\n}"
      : FULGUR_SUMS_8(d, 0), FULGUR_SUMS_8(d, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kTurnedB));
}
template <int kTurnedB>
__device__ inline void multiply_64x64x16(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FULGUR_NAMES_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
      : FULGUR_SUMS_32(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kTurnedB));
}
template <int kTurnedB>
__device__ inline void multiply_64x128x16(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FULGUR_NAMES_64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}"
      : FULGUR_SUMS_32(d, 0), FULGUR_SUMS_32(d, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(kTurnedB));
}

}  // namespace fulgur::cuda

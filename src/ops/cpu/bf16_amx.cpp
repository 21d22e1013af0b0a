// bf16 products on AMX: a block of 32 by 32 sums in four tiles, two tiles of rows and two of columns for 32 steps of k.
#include "ops/cpu/bf16_kernel.h"
#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
#include "ops/cpu/bf16_body.h"
#include "ops/cpu/bf16_dequantise.h"
#include "ops/cpu/bf16_one_row.h"

namespace fulgur::cpu {
namespace {

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileShapes kShapes;

// In assembly, since the compiler's intrinsics want the tile's number spelled out and do not say that they read memory.
struct HardwareTiles {
  static void begin() { __asm__ volatile("ldtilecfg %0" ::"m"(kShapes)); }
  static void end() { __asm__ volatile("tilerelease" ::); }
  template <int kTile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static void load(const void* from, int64_t row_bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* to, int64_t row_bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(kTile) : "memory");
  }
  template <int kSums, int kRows, int kColumns>
  static void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kRows), "i"(kColumns));
  }
};

// What a tile does with one row, without packing: in a block of 32 steps the even ones are summed, the odd ones, then
// both together, then added to the sum so far.
template <int kVectors>
class BlockSums {
 public:
  BlockSums(const float* c, bool from_c) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      sum_[i] = from_c ? _mm512_loadu_ps(c + 16 * i) : _mm512_setzero_ps();
      even_[i] = odd_[i] = _mm512_setzero_ps();
    }
  }
  void add(int i, Words steps, Words line) {
    even_[i] = _mm512_fmadd_ps((__m512)(steps << 16), (__m512)(line << 16), even_[i]);
    odd_[i] = _mm512_fmadd_ps((__m512)(steps & 0xffff0000), (__m512)(line & 0xffff0000), odd_[i]);
  }
  void end_block() {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) sum_[i] += even_[i] + odd_[i], even_[i] = odd_[i] = _mm512_setzero_ps();
  }
  void store(float* c) const {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) _mm512_storeu_ps(c + 16 * i, sum_[i]);
  }

 private:
  __m512 sum_[kVectors], even_[kVectors], odd_[kVectors];
};

void multiply_one_as_tiles(const uint16_t* x, int64_t k, const Bf16Lying& b, float* c, int64_t n, bool from_c) {
  const SubnormalsAreZero mode;
  const volatile Bf16Kernel::MultiplyOne rows = multiply_one<BlockSums>;
  rows(x, k, b, c, n, from_c);
}

constexpr Bf16Kernel kernel_of_tiles() {
  Bf16Kernel kernel = TileProducts<HardwareTiles>::kernel();
  kernel.multiply_one = multiply_one_as_tiles;
  kernel.dequantise = dequantise;
  return kernel;
}
constexpr Bf16Kernel kKernel = kernel_of_tiles();

}  // namespace

const Bf16Kernel* bf16_kernel_amx() { return &kKernel; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const Bf16Kernel* bf16_kernel_amx() { return nullptr; }

}  // namespace fulgur::cpu
#endif

// bf16 products on AMX: a block of 32 by 32 sums in four tiles, two tiles of rows and two of columns for 32 steps of k.
#include "ops/cpu/bf16_kernel.h"
#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
#include "ops/cpu/bf16_body.h"

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

constexpr Bf16Kernel kKernel = TileProducts<HardwareTiles>::kernel();

}  // namespace

const Bf16Kernel* bf16_kernel_amx() { return &kKernel; }

}  // namespace fulgur::cpu
#else

namespace fulgur::cpu {

const Bf16Kernel* bf16_kernel_amx() { return nullptr; }

}  // namespace fulgur::cpu
#endif

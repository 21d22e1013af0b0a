#include "ops/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fulgur::cpu {
namespace {

#if defined(__x86_64__)
struct Leaf7 {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  explicit Leaf7(unsigned subleaf) {
    if (!__get_cpuid_count(7, subleaf, &eax, &ebx, &ecx, &edx)) eax = edx = 0;
  }
};

// Linux hands out the tile registers' memory only to a process that asks; threads inherit the leave.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_tiles() {
  constexpr unsigned kAmxBf16 = 1U << 22, kAmxTile = 1U << 24;  // of edx
  const unsigned edx = Leaf7(0).edx;
  return (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0 && may_use_tiles();
}
#endif

Isa best() {
  for (const Isa isa : {Isa::amx, Isa::avx512, Isa::avx2, Isa::neon})
    if (has(isa)) return isa;
  return Isa::generic;
}

Isa chosen() {
  const char* const wish = std::getenv("FULGUR_ISA");
  if (wish == nullptr || *wish == '\0') return best();
  const std::string name = wish;
  std::string allowed;
  for (const Isa isa : {Isa::neon, Isa::avx2, Isa::avx512, Isa::amx}) {
    if (!has(isa)) continue;
    if (name == name_of(isa)) return isa;
    allowed += std::string(name_of(isa)) + ", ";
  }
  fail(ErrorKind::unsupported,
       "FULGUR_ISA=" + name + " is unknown or not for this CPU; allowed here: " + allowed + "or unset");
}

}  // namespace

bool has(Isa isa) {
  switch (isa) {
    case Isa::generic: return true;
#if defined(__aarch64__)
    case Isa::neon: return true;  // part of the architecture
#else
    case Isa::neon: return false;
#endif
#if defined(__x86_64__)
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && has(Isa::avx2);
    case Isa::amx: {
      static const bool tiles = has(Isa::avx512) && has_avx512_bf16() && has_tiles();
      return tiles;
    }
#else
    case Isa::avx2:
    case Isa::avx512:
    case Isa::amx: return false;
#endif
  }
  return false;
}

bool has_avx512_bf16() {
#if defined(__x86_64__)
  return has(Isa::avx512) && (Leaf7(1).eax & (1U << 5)) != 0;
#else
  return false;
#endif
}

Isa isa() {
  static const Isa kept = chosen();
  return kept;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::generic: return "generic";
    case Isa::neon: return "neon";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::amx: return "amx";
  }
  return "?";
}

bool multiplies_bf16() { return isa() == Isa::amx || (isa() == Isa::avx512 && has_avx512_bf16()); }

const char* bf16_path() {
  if (isa() == Isa::amx) return "amx";
  return multiplies_bf16() ? "avx512_bf16" : "widened";
}

}  // namespace fulgur::cpu

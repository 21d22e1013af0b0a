#include "ops/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "base/error.h"

namespace fulgur::cpu {
namespace {

Isa best() {
  if (has(Isa::avx512)) return Isa::avx512;
  if (has(Isa::avx2)) return Isa::avx2;
  return Isa::generic;
}

Isa chosen() {
  const char* const wish = std::getenv("FULGUR_ISA");
  if (wish == nullptr || *wish == '\0') return best();
  const std::string name = wish;
  std::string allowed;
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
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
#if defined(__x86_64__)
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && has(Isa::avx2);
#else
    case Isa::avx2:
    case Isa::avx512: return false;
#endif
  }
  return false;
}

Isa isa() {
  static const Isa kept = chosen();
  return kept;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::generic: return "generic";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "?";
}

}  // namespace fulgur::cpu

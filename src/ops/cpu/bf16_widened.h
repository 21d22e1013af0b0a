// bf16 products for processors without any: panels of bf16 are widened as they are packed and the f32 kernel
// multiplies.
#pragma once
#include "ops/cpu/bf16_kernel.h"
#include "ops/cpu/isa.h"

namespace fulgur::cpu {

// On the f32 kernel of an instruction set that this CPU has.
Bf16Kernel bf16_kernel_widened(Isa isa);

}  // namespace fulgur::cpu

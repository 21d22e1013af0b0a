// How gemm_bf16.cpp runs one tile of outputs on one instruction set's kernel; the tests run every kernel through it.
#pragma once
#include "ops/cpu/bf16_kernel.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/isa.h"

namespace fulgur::cpu {

// The kernel of an instruction set that this program and CPU have.
const Bf16Kernel& bf16_kernel(Isa isa);

// The whole product on the calling thread.
void multiply_tile(const Bf16Kernel& kernel, const Bf16Product& product);

}  // namespace fulgur::cpu

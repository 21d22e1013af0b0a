// How gemm.cpp runs one tile of outputs on one instruction set's kernel; the tests run every instruction set through
// it.
#pragma once
#include "ops/cpu/gemm.h"
#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/isa.h"

namespace fulgur::cpu {

// The kernels of an instruction set, null where this program or CPU lacks it.
const GemmKernels* gemm_kernels(Isa isa);

// The whole product on the calling thread.
template <class T>
void multiply_tile(const GemmKernel<T>& kernel, const Product<T>& product);

}  // namespace fulgur::cpu

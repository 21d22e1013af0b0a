// Which heads attention's CUDA twins take.
#pragma once
#include <string>

#include "base/error.h"
#include "base/tensor.h"

namespace fulgur::cuda {

inline constexpr int64_t kLargestHead = 128;

// Fails with ErrorKind::unsupported where an operator called `name` has no kernel for the element type or head size.
inline void expect_kernel(const char* name, DType type, int64_t width) {
  if (type != DType::f32 && type != DType::bf16)
    fail(ErrorKind::unsupported,
         std::string(name) + " of " + name_of(type) + " needs --device cpu: CUDA has f32 and bf16");
  if (width % 8 != 0 || width > kLargestHead)
    fail(ErrorKind::unsupported, std::string(name) + " of heads of " + std::to_string(width) +
                                     " needs --device cpu: CUDA has multiples of 8 up to " +
                                     std::to_string(kLargestHead));
}

}  // namespace fulgur::cuda

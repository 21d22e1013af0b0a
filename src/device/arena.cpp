#include "device/arena.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace fulgur {

constexpr size_t kAlign = 256;
[[maybe_unused]] constexpr int kPoison = 0xff;  // NaN in every floating-point type, -1 in every integer

Tensor Arena::alloc(DType dtype, std::initializer_list<int64_t> shape) {
  const size_t begin = (used_ + kAlign - 1) / kAlign * kAlign;
  const Tensor t = contiguous(base_ ? base_ + begin : nullptr, dtype, device_, shape);
  const size_t end = begin + size_t(t.bytes());
  if (end > limit_)
    fail(ErrorKind::out_of_memory,
         "activations need " + std::to_string(end) + " bytes, " + std::to_string(limit_) + " were planned");
  used_ = end;
  peak_ = std::max(peak_, used_);
  return t;
}

void Arena::rewind(size_t used) {
#ifdef FULGUR_POISON
  if (base_ && !device_.is_cuda()) std::memset(base_ + used, kPoison, used_ - used);
#endif
  used_ = used;
}

}  // namespace fulgur

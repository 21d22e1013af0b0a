#include "device/arena.h"

#include <algorithm>
#include <string>

#include "device/poison.h"

namespace fulgur {

constexpr size_t kAlign = 256;

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
  if (base_) poison(device_, base_ + used, used_ - used);
  used_ = used;
}

}  // namespace fulgur

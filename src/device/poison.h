// What nobody may read any more is filled with 0xff, NaN in every floating-point type and -1 in every integer: in
// sanitiser and debug builds, and where FULGUR_POISON=1 is in the environment. On a GPU each filling waits for all
// work.
#pragma once
#include "base/tensor.h"

namespace fulgur {

bool poisons();
// Where poisons(): fills the bytes. No data: nothing.
void poison(DeviceId device, std::byte* data, size_t bytes) noexcept;

}  // namespace fulgur

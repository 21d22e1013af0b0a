// How a user names a device, and which ones this program can compute on.
#pragma once
#include <string>

#include "base/tensor.h"

namespace fulgur {

// "cpu", "cuda" (its first GPU), "cuda:N", or "auto": the first GPU where it runs this build's kernels, else the CPU.
// option: who asks, for messages. Throws invalid_input for other words and a GPU that is not there; unsupported in a
// build without CUDA; device for a GPU that this program holds no kernels for, and where the driver refuses.
DeviceId device_named(const std::string& option, const std::string& name);

// "cpu", "cuda:0".
std::string name_of(DeviceId device);

}  // namespace fulgur

#include "device/devices.h"

#include <algorithm>

#include "device/cuda_calls.h"
#include "device/cuda_timing.h"
#include "device/stream.h"

namespace fulgur {
namespace {

constexpr DeviceId kFirstGpu{DeviceKind::cuda, 0};

// N of "cuda:N", 0 of "cuda"; -1: neither.
int number_of(const std::string& name) {
  if (name == "cuda") return 0;
  const std::string digits = name.starts_with("cuda:") ? name.substr(5) : "";
  const bool number = !digits.empty() && digits.size() <= 3 && std::all_of(digits.begin(), digits.end(), ::isdigit);
  return number && std::stoi(digits) <= UINT8_MAX ? std::stoi(digits) : -1;
}

[[noreturn]] void refuse_card(const std::string& asked, DeviceId device) {
  const cuda::CudaCard card = cuda::card_of(device);
  fail(ErrorKind::device, asked + "this program holds kernels for compute capability " + cuda::architectures() +
                              ", and " + card.name + " has " + card.capability +
                              ": expected cpu, or a build with CMAKE_CUDA_ARCHITECTURES for it");
}

}  // namespace

DeviceId device_named(const std::string& option, const std::string& name) {
  if (name == "cpu") return {};
  if (name == "auto") return cuda::runs_kernels(kFirstGpu) ? kFirstGpu : DeviceId{};
  const int number = number_of(name);
  const std::string asked = option + " " + name + ": ";
  if (number < 0) fail(ErrorKind::invalid_input, asked + "expected auto, cpu, cuda or cuda:N");
  if (!kCudaBuilt) fail(ErrorKind::unsupported, asked + "this build has no CUDA; expected cpu, or the cuda preset");
  const int count = cuda::device_count();
  if (number >= count)
    fail(ErrorKind::invalid_input, asked + "this machine has " + std::to_string(count) + " GPUs, counted from 0");
  const DeviceId device{DeviceKind::cuda, uint8_t(number)};
  if (!cuda::runs_kernels(device)) refuse_card(asked, device);
  return device;
}

std::string name_of(DeviceId device) { return device.is_cuda() ? "cuda:" + std::to_string(int(device.index)) : "cpu"; }

}  // namespace fulgur

// The device that tests of models run on: FULGUR_TEST_DEVICE, cpu where it says nothing.
#pragma once
#include <cstdlib>

#include "device/devices.h"

namespace fulgur::tests {

inline DeviceId test_device() {
  const char* const asked = std::getenv("FULGUR_TEST_DEVICE");
  return device_named("FULGUR_TEST_DEVICE", asked && *asked ? asked : "cpu");
}

}  // namespace fulgur::tests

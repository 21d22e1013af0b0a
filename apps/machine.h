// What this machine is and has, as `fulgur doctor` reports it. Nothing here fails where something is absent.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace fulgur {

std::string cpu_model();
// Those that decide how numbers are computed: avx2, fma, avx512f, ...; neon.
std::vector<std::string> cpu_features();
int64_t total_memory();  // bytes

struct Library {
  std::string name, version;  // "not found" where it cannot be loaded
};
std::vector<Library> libraries();

struct Gpu {
  std::string name;
  int64_t memory;    // bytes
  int major, minor;  // compute capability
};
// Through CUDA's driver, found at run time; empty without one. error: what the driver says where it is there and fails.
std::vector<Gpu> gpus(std::string& error);

}  // namespace fulgur

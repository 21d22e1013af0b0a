#include "apps/machine.h"

#include <dlfcn.h>
#include <sys/sysinfo.h>
#include <unicode/uversion.h>

#include <algorithm>
#include <fstream>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fulgur {
namespace {

constexpr const char* kNotFound = "not found";

// The first of the names that loads; it stays loaded. Null: none does.
void* load(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (void* const library = dlopen(name, RTLD_LAZY | RTLD_LOCAL)) return library;
  return nullptr;
}

template <class Function>
Function* function(void* library, const char* name) {
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}

// "13.0" of 13000 where thousands count: a major version each `unit`, a minor each `minor_unit`.
std::string version_of(int64_t number, int64_t unit, int64_t minor_unit) {
  return std::to_string(number / unit) + "." + std::to_string(number % unit / minor_unit);
}

// Libraries that say their version as int f(int*), and as size_t f().
std::string told(void* library, const char* name, int64_t unit, int64_t minor_unit) {
  int number = 0;
  const auto ask = function<int(int*)>(library, name);
  return ask && ask(&number) == 0 ? version_of(number, unit, minor_unit) : kNotFound;
}
std::string returned(void* library, const char* name, int64_t unit, int64_t minor_unit) {
  const auto ask = function<size_t()>(library, name);
  return ask ? version_of(int64_t(ask()), unit, minor_unit) : kNotFound;
}

std::string mpi_version() {
  char text[8192] = {};  // MPI_MAX_LIBRARY_VERSION_STRING of every implementation and more
  int length = 0;
  const auto ask =
      function<int(char*, int*)>(load({"libmpi.so.40", "libmpi.so.12", "libmpi.so"}), "MPI_Get_library_version");
  if (!ask || ask(text, &length) != 0) return kNotFound;
  const std::string whole = text;
  return whole.substr(0, whole.find_first_of(",\n"));
}

std::string icu_version() {
  UVersionInfo info;
  u_getVersion(info);
  return std::to_string(info[0]) + "." + std::to_string(info[1]);
}

#if defined(__x86_64__)
struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  Leaf(unsigned leaf, unsigned subleaf) {
    if (!__get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx)) eax = ebx = ecx = edx = 0;
  }
};
#endif

}  // namespace

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  return "unknown";
}

std::vector<std::string> cpu_features() {
#if defined(__x86_64__)
  const Leaf one(1, 0), seven(7, 0), more(7, 1);
  const struct {
    const char* name;
    unsigned bits, bit;
  } all[] = {{"avx2", seven.ebx, 5},       {"fma", one.ecx, 12},        {"avx512f", seven.ebx, 16},
             {"avx512bw", seven.ebx, 30},  {"avx512dq", seven.ebx, 17}, {"avx512vl", seven.ebx, 31},
             {"avx512_bf16", more.eax, 5}, {"amx_tile", seven.edx, 24}, {"amx_bf16", seven.edx, 22}};
  std::vector<std::string> features;
  for (const auto& f : all)
    if (f.bits >> f.bit & 1) features.emplace_back(f.name);
  return features;
#elif defined(__aarch64__)
  return {"neon"};
#else
  return {};
#endif
}

int64_t total_memory() {
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? int64_t(info.totalram) * int64_t(info.mem_unit) : 0;
}

std::vector<Library> libraries() {
  void* const driver = load({"libcuda.so.1"});
  void* const runtime = load({"libcudart.so.13", "libcudart.so.12", "libcudart.so"});
  void* const blas = load({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
  void* const dnn = load({"libcudnn.so.9", "libcudnn.so"});
  void* const nccl = load({"libnccl.so.2", "libnccl.so"});
  return {{"ICU", icu_version()},
          {"CUDA driver", told(driver, "cuDriverGetVersion", 1000, 10)},
          {"CUDA run time", told(runtime, "cudaRuntimeGetVersion", 1000, 10)},
          {"cuBLASLt", returned(blas, "cublasLtGetVersion", 10000, 100)},
          {"cuDNN", returned(dnn, "cudnnGetVersion", 10000, 100)},
          {"NCCL", told(nccl, "ncclGetVersion", 10000, 100)},
          {"MPI", mpi_version()}};
}

std::vector<Gpu> gpus(std::string& error) {
  constexpr int kNoDevice = 100;           // CUDA_ERROR_NO_DEVICE
  constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  void* const driver = load({"libcuda.so.1"});
  const auto begin = function<int(unsigned)>(driver, "cuInit");
  const auto count_of = function<int(int*)>(driver, "cuDeviceGetCount");
  const auto name_of = function<int(char*, int, int)>(driver, "cuDeviceGetName");
  const auto memory_of = function<int(size_t*, int)>(driver, "cuDeviceTotalMem_v2");
  std::vector<Gpu> list;
  const auto attribute_of = function<int(int*, int, int)>(driver, "cuDeviceGetAttribute");
  if (!begin || !count_of || !name_of || !memory_of || !attribute_of) return list;
  int count = 0, status = begin(0);
  if (status == 0) status = count_of(&count);
  for (int i = 0; i < count && status == 0; ++i) {
    char name[256] = {};
    size_t memory = 0;
    int major = 0, minor = 0;
    status = name_of(name, int(sizeof name), i);
    if (status == 0) status = memory_of(&memory, i);
    if (status == 0) status = attribute_of(&major, kMajor, i);
    if (status == 0) status = attribute_of(&minor, kMinor, i);
    list.push_back({name, int64_t(memory), major, minor});
  }
  if (status != 0 && status != kNoDevice) error = "CUDA's driver says error " + std::to_string(status);
  return list;
}

}  // namespace fulgur

// A build without CUDA: whoever asks for a CUDA device is told so.
#include "device/cuda_calls.h"
#include "device/cuda_timing.h"

namespace fulgur {

extern const bool kCudaBuilt = false;

namespace cuda {
namespace {

[[noreturn]] void absent() {
  fail(ErrorKind::unsupported, "this build has no CUDA: use --device cpu, or build the cuda preset");
}

}  // namespace

int device_count() { absent(); }
bool runs_kernels(DeviceId) noexcept { return false; }
std::string architectures() { return ""; }
void* create_stream(DeviceId) { absent(); }
void destroy_stream(void*) noexcept {}
void synchronize(void*) { absent(); }
void copy(void*, void*, const void*, size_t) { absent(); }
void clear(void*, void*, size_t) { absent(); }
void poison(DeviceId, void*, size_t) noexcept {}
std::byte* allocate(DeviceId, size_t) { absent(); }
std::byte* allocate_pinned(size_t) { absent(); }
size_t free_memory(DeviceId) { absent(); }
void release(std::byte*) noexcept {}
void release_pinned(std::byte*) noexcept {}

CudaCard card_of(DeviceId) { absent(); }
void* create_event() { absent(); }
void destroy_event(void*) noexcept {}
void record_event(void*, void*) { absent(); }
double seconds_between(void*, void*) { absent(); }
void hold(void*, double) { absent(); }
void begin_capture(void*) { absent(); }
void* end_capture(void*) { absent(); }
void launch_graph(void*, void*) { absent(); }
void destroy_graph(void*) noexcept {}

}  // namespace cuda
}  // namespace fulgur

// The calls to CUDA's run time that host code needs; cuda_calls.cu makes them, cuda_absent.cpp refuses them in a build
// without CUDA. Every failed call throws `device` with its cause.
#pragma once
#include <cstddef>
#include <string>

#include "base/tensor.h"

namespace fulgur::cuda {

int device_count();                           // throws where there is no driver or no GPU
bool runs_kernels(DeviceId device) noexcept;  // it is there, and this program holds kernels for it
std::string architectures();                  // "8.0, 9.0": compute capabilities that it holds kernels for; "": none
bool kernels_can_follow(DeviceId device);     // as Grid::follows has it (device/launch.cuh); asked once
void* create_stream(DeviceId device);
void destroy_stream(void* stream) noexcept;
void synchronize(void* stream);
void copy(void* stream, void* to, const void* from, size_t bytes);
void clear(void* stream, void* data, size_t bytes);
void poison(DeviceId device, void* data, size_t bytes) noexcept;  // every byte 0xff, once all that was begun is done
std::byte* allocate(DeviceId device, size_t bytes);               // zeroed
std::byte* allocate_pinned(size_t bytes);
size_t free_memory(DeviceId device);
void release(std::byte* data) noexcept;
void release_pinned(std::byte* data) noexcept;

}  // namespace fulgur::cuda

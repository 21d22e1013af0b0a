// What the CUDA bench runs on the card beside operators: random operands, a copy, digests, dense copies of slices.
#pragma once
#include <cstdint>
#include <vector>

#include "device/stream.h"

namespace fulgur::bench {

// Normal numbers, a function of seed and element alone. f32 or bf16, dense.
void fill_normal(Stream& stream, Tensor tensor, uint64_t seed, double deviation, double mean);

// All bytes 0xff: NaN in every floating type. Dense.
void poison(Stream& stream, Tensor tensor);

// Of a tensor's bytes, equal where those are; and how many of its floating elements are NaN. Dense; waits.
struct Digest {
  uint64_t bytes = 0, nans = 0;
  bool operator==(const Digest&) const = default;
};
Digest digest_of(Stream& stream, Tensor tensor);

// Multiples of 16 bytes, as quickly as we know how: the second of the two rates that floors take the better of.
void copy_by_kernel(Stream& stream, std::byte* to, const std::byte* from, int64_t bytes);

// The elements of a tensor of any strides, end to end; any floating type becomes f32. Waits.
std::vector<float> elements_of(Stream& stream, Tensor tensor);

}  // namespace fulgur::bench

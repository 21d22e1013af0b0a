// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011), so that any element can be drawn by itself.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace fulgur {

using PhiloxBlock = std::array<uint32_t, 4>;

// The block of four words at `counter` (low word first) of the stream `key` (low word first).
constexpr PhiloxBlock philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  PhiloxBlock c{uint32_t(counter_low), uint32_t(counter_low >> 32), uint32_t(counter_high),
                uint32_t(counter_high >> 32)};
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53) * c[0], b = uint64_t(0xCD9E8D57) * c[2];
    c = {uint32_t(b >> 32) ^ c[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k1, uint32_t(a)};
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return c;
}

// Uniform in (0, 1): the middle of one of 2^32 intervals.
constexpr double unit_interval(uint32_t word) { return (double(word) + 0.5) * 0x1p-32; }

constexpr uint64_t fnv1a64(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ uint8_t(c)) * 0x100000001b3;
  return hash;
}

}  // namespace fulgur

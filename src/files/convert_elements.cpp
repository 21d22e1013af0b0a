#include <cmath>
#include <cstring>

#include "files/json_file.h"
#include "files/safetensors.h"

namespace fulgur {
namespace {

struct Half {
  uint16_t bits;
};

float widened(Half half) {
  const uint32_t sign = uint32_t(half.bits & 0x8000) << 16, exponent = half.bits >> 10 & 31,
                 fraction = half.bits & 0x3ff;
  if (exponent == 0) {  // zero or a subnormal: fraction * 2^-24
    const float size = float(fraction) * 0x1p-24F;
    return sign ? -size : size;
  }
  const uint32_t wide_exponent = exponent == 31 ? 255 : exponent + (127 - 15);
  return __builtin_bit_cast(float, sign | wide_exponent << 23 | fraction << 13);
}

double exact(double x) { return x; }
float exact(float x) { return x; }
float exact(bf16 x) { return float(x); }
float exact(Half x) { return widened(x); }

// The float next to x that still rounds to the same bf16: of the two around an inexact x, the one with an odd last bit.
float toward_bf16(double x) {
  const float near = float(x);
  if (double(near) == x || std::isnan(x) || (__builtin_bit_cast(uint32_t, near) & 1)) return near;
  return std::nextafterf(near, double(near) > x ? -INFINITY : INFINITY);
}

template <class To>
To rounded(double x) {
  if constexpr (std::is_same_v<To, bf16>) return bf16(toward_bf16(x));
  else return To(x);
}
template <class To>
To rounded(float x) {
  return To(x);
}

template <class To, class From>
void convert(std::byte* to, const std::byte* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    From x;
    std::memcpy(&x, from + i * int64_t(sizeof x), sizeof x);
    const To y = rounded<To>(exact(x));
    std::memcpy(to + i * int64_t(sizeof y), &y, sizeof y);
  }
}

template <class To>
void convert_to(std::byte* to, const std::byte* from, DType from_type, int64_t count) {
  switch (from_type) {
    case DType::f64: return convert<To, double>(to, from, count);
    case DType::f32: return convert<To, float>(to, from, count);
    case DType::bf16: return convert<To, bf16>(to, from, count);
    case DType::f16: return convert<To, Half>(to, from, count);
    default: expect(false, "only floating-point elements are converted");
  }
}

}  // namespace

void convert_elements(std::byte* to, DType to_type, const std::byte* from, DType from_type, int64_t count) {
  if (to_type == from_type) {
    std::memcpy(to, from, size_t(count * byte_size(to_type)));
    return;
  }
  switch (to_type) {
    case DType::f64: return convert_to<double>(to, from, from_type, count);
    case DType::f32: return convert_to<float>(to, from, from_type, count);
    case DType::bf16: return convert_to<bf16>(to, from, from_type, count);
    default: expect(false, "elements become f64, f32 or bf16");
  }
}

void read_as(DType to, std::byte* out, const StoredTensor& tensor) {
  if (to != tensor.dtype && !is_float(tensor.dtype))
    fail(ErrorKind::corrupt_file,
         "tensor " + in_quotes(tensor.name) + " is " + tensor.describe() + ", expected F64, F32, BF16 or F16");
  convert_elements(out, to, tensor.bytes.data(), tensor.dtype, tensor.count());
}

}  // namespace fulgur

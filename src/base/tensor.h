// Tensor: a typed, shaped, non-owning window on memory. Who owns the memory: device/buffer.h and device/arena.h.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "base/error.h"

namespace fulgur {

#ifdef __CUDACC__
#define FULGUR_HOST_DEVICE __host__ __device__
#else
#define FULGUR_HOST_DEVICE
#endif

enum class DType : uint8_t { f64, f32, bf16, f16, i8, u8, i32, i64 };
enum class DeviceKind : uint8_t { cpu, cuda };

struct DeviceId {
  DeviceKind kind = DeviceKind::cpu;
  uint8_t index = 0;
  bool is_cuda() const { return kind == DeviceKind::cuda; }
  bool operator==(const DeviceId&) const = default;
};

// Bytes of one element.
constexpr int64_t byte_size(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::i8:
    case DType::u8: return 1;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
  }
  return "?";
}

// bfloat16, rounded to nearest even; identical on host and device.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  FULGUR_HOST_DEVICE explicit bf16(float f) {
    const uint32_t u = __builtin_bit_cast(uint32_t, f);
    bits = (f != f) ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  FULGUR_HOST_DEVICE explicit operator float() const { return __builtin_bit_cast(float, uint32_t(bits) << 16); }
};

template <class T>
inline constexpr DType dtype_of = T::no_such_element_type;
template <>
inline constexpr DType dtype_of<double> = DType::f64;
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<int8_t> = DType::i8;
template <>
inline constexpr DType dtype_of<uint8_t> = DType::u8;
template <>
inline constexpr DType dtype_of<int32_t> = DType::i32;
template <>
inline constexpr DType dtype_of<int64_t> = DType::i64;

// What sums and statistics of T are kept in: f32, and f64 when the whole run is f64.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
constexpr DType wide(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

// What a kernel indexes: x(row, column). Lives only inside *_cpu.cpp and *_cuda.cu.
template <class T, int R>
struct View {
  T* data;
  int64_t shape[R], stride[R];
  template <class... Index>
  FULGUR_HOST_DEVICE T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == R);
    const int64_t at[] = {int64_t(index)...};
    int64_t offset = 0;
    for (int r = 0; r < R; ++r) offset += at[r] * stride[r];
    return data[offset];
  }
};

inline constexpr int kMaxRank = 5;

struct Tensor {
  std::byte* data = nullptr;                        // null in a measuring run, and when the operand was not given
  std::array<int64_t, kMaxRank> shape{}, stride{};  // stride counts elements
  DType dtype = DType::f32;
  DeviceId device;
  int8_t rank = 0;

  explicit operator bool() const { return rank != 0; }  // false: an optional operand that was not given
  int64_t dim(int axis) const { return shape[size_t(axis < 0 ? rank + axis : axis)]; }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[size_t(i)];
    return n;
  }
  int64_t bytes() const { return rank ? count() * byte_size(dtype) : 0; }
  bool same_shape(const Tensor& t) const { return rank == t.rank && shape == t.shape; }
  bool is(DType type, std::initializer_list<int64_t> dims) const;  // element type and shape
  bool dense() const;                                              // elements lie end to end, in row-major order

  // Indices [begin, end) of one axis.
  Tensor slice(int axis, int64_t begin, int64_t end) const;
  Tensor rows(int64_t begin, int64_t end) const { return slice(0, begin, end); }

  // One index of the first axis, which goes away: [layers, rows, width].at(2) is [rows, width].
  Tensor at(int64_t index) const;

  // Axes from `axis` on as one: [rows, heads, head_dim].merged(1) is [rows, heads * head_dim].
  Tensor merged(int axis) const;

  // The last axis as several; the inverse of merged: [rows, 96].split({3, 32}) is [rows, 3, 32].
  Tensor split(std::initializer_list<int64_t> dims) const;

  template <class T, int R>
  View<T, R> view() const {
    expect(dtype == dtype_of<T>, "kernel element type matches the tensor");
    expect(rank == R, "kernel rank matches the tensor");
    View<T, R> v{reinterpret_cast<T*>(data), {}, {}};
    for (int i = 0; i < R; ++i) v.shape[i] = shape[size_t(i)], v.stride[i] = stride[size_t(i)];
    return v;
  }

  // The elements of a dense tensor.
  template <class T>
  T* elements() const {
    expect(dtype == dtype_of<T>, "element type matches the tensor");
    expect(dense(), "elements of the tensor lie end to end");
    return reinterpret_cast<T*>(data);
  }
};

Tensor contiguous(std::byte* data, DType dtype, DeviceId device, std::initializer_list<int64_t> shape);

}  // namespace fulgur

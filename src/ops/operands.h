// The tensors of an operator, listed once by its struct:
//   auto operands() const { return std::tuple{out(y), in(x), in(weight)}; }
// Device checks, the measuring run, byte counts and the cases' f64 oracles read that list.
#pragma once
#include <array>
#include <tuple>

#include "ops/weight.h"

namespace fulgur {

enum class Access : uint8_t { in, out, inout, work };  // work: memory to use, of which nothing is to be read after

struct Operand {
  const Tensor* tensor;
  Access access;
};

inline Operand in(const Tensor& t) { return {&t, Access::in}; }
inline Operand out(const Tensor& t) { return {&t, Access::out}; }
inline Operand inout(const Tensor& t) { return {&t, Access::inout}; }
inline Operand work(const Tensor& t) { return {&t, Access::work}; }
inline bool is_read(Access access) { return access == Access::in || access == Access::inout; }
inline bool is_written(Access access) { return access == Access::out || access == Access::inout; }
inline std::array<Operand, 2> in(const Weight& w) { return {in(w.values), in(w.scales)}; }

// visit(Operand) for every tensor that was given.
template <class Operands, class Visit>
void for_each_operand(const Operands& op, Visit&& visit) {
  const auto one = [&](Operand o) {
    if (*o.tensor) visit(o);
  };
  const auto each = [&](const auto& o) {
    if constexpr (requires { o.size(); }) {
      for (const Operand part : o) one(part);
    } else {
      one(o);
    }
  };
  std::apply([&](const auto&... o) { (each(o), ...); }, op.operands());
}

// The bytes it must move when every operand is read or written once; an operator that needs only a part of one says so
// by its own bytes().
template <class Operands>
int64_t bytes_of(const Operands& op) {
  if constexpr (requires { op.bytes(); }) return op.bytes();
  int64_t bytes = 0;
  for_each_operand(
      op, [&](Operand o) { bytes += o.tensor->bytes() * (int(is_read(o.access)) + int(is_written(o.access))); });
  return bytes;
}

// The same call on other tensors: host copies, or f64 copies for an oracle.
template <class Operands, class Replace>
Operands with_tensors(Operands op, Replace&& replace) {
  for_each_operand(op, [&](Operand o) { const_cast<Tensor&>(*o.tensor) = replace(o); });  // op is our own copy
  return op;
}

}  // namespace fulgur

// Draw: the operands of a call on the card, filled with random numbers. On a measuring arena it counts their bytes.
#pragma once
#include <vector>

#include "device/arena.h"
#include "device/stream.h"
#include "device/transfer.h"

namespace fulgur::bench {

class Draw {
 public:
  Draw(Stream& stream, Arena& arena, uint64_t seed) : stream_(stream), arena_(arena), seed_(seed) {}

  Tensor empty(DType type, std::initializer_list<int64_t> shape) { return arena_.alloc(type, shape); }
  Tensor normal(DType type, std::initializer_list<int64_t> shape, double deviation = 1, double mean = 0);
  Tensor zeros(DType type, std::initializer_list<int64_t> shape) {
    const Tensor t = arena_.alloc(type, shape);
    if (t.data) clear(stream_, t);
    return t;
  }
  template <class T>
  Tensor values(const std::vector<T>& values, std::initializer_list<int64_t> shape) {
    const Tensor t = arena_.alloc(dtype_of<T>, shape);
    return t.data ? uploaded(t, values) : t;
  }
  template <class T>
  Tensor values(const std::vector<T>& v) {
    return values(v, {int64_t(v.size())});
  }

  Stream& stream() { return stream_; }

 private:
  template <class T>
  Tensor uploaded(const Tensor& t, const std::vector<T>& values) {
    Tensor host = t;
    host.device = {}, host.data = const_cast<std::byte*>(reinterpret_cast<const std::byte*>(values.data()));
    copy(stream_, t, host);
    stream_.synchronize();
    return t;
  }

  Stream& stream_;
  Arena& arena_;
  uint64_t seed_;
};

// Sequences of a call, laid end to end: sequence s has rows[s] rows from position starts[s] on.
struct Layout {
  std::vector<int32_t> row_begin;
  std::vector<int64_t> positions;
  int64_t rows = 0, longest = 0;
};
Layout lay_out(const std::vector<int64_t>& rows, const std::vector<int64_t>& starts);

}  // namespace fulgur::bench

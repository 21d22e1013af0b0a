// Arena: one allocation, handed out in order and rewound as a whole. It holds a step's activations and scratch.
#pragma once
#include <initializer_list>

#include "base/tensor.h"

namespace fulgur {

class Arena {
 public:
  Arena(std::byte* memory, size_t bytes, DeviceId device) : base_(memory), limit_(bytes), device_(device) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Counts bytes without owning any, so the code that runs a step is also the code that sizes it.
  static Arena measuring(DeviceId device) { return Arena(nullptr, SIZE_MAX, device); }

  // Uninitialised and dense; lives until the innermost Scope ends. Throws out_of_memory.
  Tensor alloc(DType dtype, std::initializer_list<int64_t> shape);

  size_t used_bytes() const { return used_; }
  size_t peak_bytes() const { return peak_; }
  DeviceId device() const { return device_; }

  // What was allocated while a Scope lives is free again when it ends, and poisoned then (device/poison.h).
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), used_(arena.used_) {}
    ~Scope() { arena_.rewind(used_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t used_;
  };

 private:
  void rewind(size_t used);

  std::byte* base_;
  size_t limit_, used_ = 0, peak_ = 0;
  DeviceId device_;
};

}  // namespace fulgur

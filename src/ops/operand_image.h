// OperandImage: copies of a call's operands, so that its other twin can run on what it ran on.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "device/recorder.h"

namespace fulgur {

// A call's operands as they lay in memory before it, in main memory. Ranges that overlap are one, so operands that
// share memory share it in the image too; each lies at its address modulo kAlign, with margins that nobody may write.
class OperandImage {
 public:
  // read(to, from, bytes) copies from where the operands lie.
  template <class Read>
  OperandImage(const std::vector<TouchedTensor>& tensors, const Read& read) {
    for (const TouchedTensor& t : tensors) ranges_.push_back(covered(t.tensor));
    merge();
    size_t end = 0;
    for (Range& range : ranges_) {
      range.at = end + kMargin;
      range.at += (uintptr_t(range.begin) - range.at) % kAlign;
      end = range.at + range.bytes();
    }
    bytes_.assign(end + kMargin, kUntouched);
    bytes_ = again(read);
  }
  explicit OperandImage(const std::vector<TouchedTensor>& tensors)
      : OperandImage(tensors, [](void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }) {}

  // The image of what lies there by now.
  template <class Read>
  std::vector<uint8_t> again(const Read& read) const {
    std::vector<uint8_t> now = bytes_;
    for (const Range& range : ranges_)
      if (range.bytes() != 0) read(now.data() + range.at, range.begin, range.bytes());
    return now;
  }

  const std::vector<uint8_t>& bytes() const { return bytes_; }

  // The operand in an image that lies at `data`.
  Tensor moved(Tensor t, std::byte* data, DeviceId device) const {
    t.data = data + offset(t.data), t.device = device;
    return t;
  }

  // Takes what a twin made of the image into the written operands; how many bytes it changed beside them and beside
  // those that are neither read nor written, which are memory to use.
  size_t take(const std::vector<uint8_t>& made, const std::vector<TouchedTensor>& tensors) const {
    std::vector<uint8_t> free = bytes_;  // with the written bytes as they became
    for (const TouchedTensor& t : tensors)
      if (t.written || !t.read)
        each_element(t.tensor, [&](std::byte* element, size_t size) {
          if (t.written) std::memcpy(element, made.data() + offset(element), size);
          std::memcpy(free.data() + offset(element), made.data() + offset(element), size);
        });
    size_t changed = 0;
    for (size_t i = 0; i < made.size(); ++i) changed += made[i] != free[i];
    return changed;
  }

 private:
  static constexpr size_t kMargin = 512, kAlign = 256;
  static constexpr uint8_t kUntouched = 0xa5;

  struct Range {
    std::byte *begin, *end;
    size_t at = 0;
    size_t bytes() const { return size_t(end - begin); }
  };

  static Range covered(const Tensor& t) {
    if (t.count() == 0) return {t.data, t.data};
    int64_t low = 0, high = 1;
    for (int axis = 0; axis < t.rank; ++axis) {
      const int64_t reach = (t.dim(axis) - 1) * t.stride[size_t(axis)];
      (reach < 0 ? low : high) += reach;
    }
    return {t.data + low * byte_size(t.dtype), t.data + high * byte_size(t.dtype)};
  }

  void merge() {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::vector<Range> apart;
    for (const Range& range : ranges_) {
      if (apart.empty() || (range.begin >= apart.back().end && range.begin != apart.back().begin))
        apart.push_back(range);
      else apart.back().end = std::max(apart.back().end, range.end);
    }
    ranges_ = apart;
  }

  size_t offset(const std::byte* at) const {  // of an address in a range
    auto range = std::upper_bound(ranges_.begin(), ranges_.end(), at,
                                  [](const std::byte* address, const Range& r) { return address < r.begin; });
    --range;
    return range->at + size_t(at - range->begin);
  }

  template <class Visit>
  static void each_element(const Tensor& t, const Visit& visit) {
    for (int64_t i = 0, count = t.count(); i < count; ++i) {
      int64_t at = 0, rest = i;
      for (int axis = t.rank - 1; axis >= 0; --axis)
        at += rest % t.dim(axis) * t.stride[size_t(axis)], rest /= t.dim(axis);
      visit(t.data + at * byte_size(t.dtype), size_t(byte_size(t.dtype)));
    }
  }

  std::vector<Range> ranges_;  // by address
  std::vector<uint8_t> bytes_;
};

}  // namespace fulgur

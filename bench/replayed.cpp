#include "bench/replayed.h"

#include <algorithm>
#include <cstring>

#include "bench/timing.h"
#include "files/digest.h"

namespace fulgur::bench {
namespace {

constexpr int kPoison = 0xff;
constexpr int64_t kMostSets = 16;

// Bytes from a tensor's first element to its last: a slice's gaps belong to it.
int64_t extent(const Tensor& t) {
  if (t.count() == 0) return 0;
  int64_t last = 0;
  for (int axis = 0; axis < t.rank; ++axis) last += (t.dim(axis) - 1) * t.stride[size_t(axis)];
  return (last + 1) * byte_size(t.dtype);
}

}  // namespace

Replayed::Replayed(const OperatorCall& call, Replay replay, int64_t cache)
    : replay_(std::move(replay)), touched_(call.tensors) {
  int64_t bytes = 1;
  for (const TouchedTensor& t : touched_) bytes += extent(t.tensor);
  const int64_t sets = std::clamp<int64_t>(cache / bytes + 1, 1, kMostSets);
  for (int64_t i = 0; i < sets; ++i) sets_.push_back(copy_of(call));
  for (const TouchedTensor& t : touched_) {
    const bool kept = t.read && t.written;
    originals_.emplace_back(kept ? size_t(extent(t.tensor)) : 0, Purpose::workspace);
    if (kept) std::memcpy(originals_.back().data(), t.tensor.data, originals_.back().bytes());
  }
}

Replayed::Set Replayed::copy_of(const OperatorCall& call) const {
  Set set;
  for (const TouchedTensor& t : call.tensors) {
    set.memory.emplace_back(size_t(extent(t.tensor)), Purpose::workspace);
    set.tensors.push_back(t.tensor);
    set.tensors.back().data = set.memory.back().data();
    if (t.read && extent(t.tensor) > 0) std::memcpy(set.memory.back().data(), t.tensor.data, size_t(extent(t.tensor)));
  }
  return set;
}

void Replayed::prepare(int64_t i) {
  Set& set = sets_[at(i)];
  for (size_t k = 0; k < touched_.size(); ++k) {
    const Buffer &to = set.memory[k], &original = originals_[k];
    if (!touched_[k].written || to.bytes() == 0) continue;
    if (touched_[k].read) std::memcpy(to.data(), original.data(), to.bytes());
    else std::memset(to.data(), kPoison, to.bytes());
  }
}

void Replayed::run(Stream& stream, int64_t i) { replay_(stream, sets_[at(i)].tensors); }

bool Replayed::repeats(int64_t i) {
  std::string digest;
  for (size_t k = 0; k < touched_.size(); ++k) {
    const Buffer& memory = sets_[at(i)].memory[k];
    if (touched_[k].written) digest += digest_of(std::span(memory.data(), memory.bytes()));
  }
  if (digest_.empty()) digest_ = digest;
  return digest == digest_;
}

double Replayed::seconds(Stream& stream, double least_seconds) {
  for (size_t i = 0; i < sets_.size(); ++i) prepare(int64_t(i));
  return fastest(
      least_seconds, [](int) {}, [&](int i) { run(stream, i); },
      [&](int i) {
        expect(repeats(i), "an operator repeats its bits");
        prepare(i);  // for its next turn, when the other sets have passed through the caches
      });
}

}  // namespace fulgur::bench

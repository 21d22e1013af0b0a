#include "state/state_image.h"

#include <cstring>
#include <utility>

namespace fulgur {
namespace {

// Positions from `from` on of the last page, [2, kv_heads, 64, head_dim].
void clear_page_from(Tensor page, int64_t from) {
  for (int64_t part = 0; part < 2; ++part)
    for (int64_t head = 0; head < page.dim(1); ++head) {
      const Tensor rest = page.at(part).at(head).rows(from, kGrid);
      std::memset(rest.data, 0, size_t(rest.bytes()));
    }
}

}  // namespace

StateImage::StateImage(const StateShape& s, int64_t position)
    : position_(position), shape_(s), slot_(s), memory_(size_t(pages_for(position) * s.page_bytes()), Purpose::kv) {
  std::byte* next = memory_.data();
  for (const bool lightning : s.lightning) {
    kv_.emplace_back();
    if (lightning) continue;
    kv_.back() = contiguous(next, s.type, {}, {pages_for(position), 2, s.kv_heads, kGrid, s.head_dim});
    next += kv_.back().bytes();
  }
}

StateImage::StateImage(Stream& stream, const SequenceState& state)
    : StateImage(state.pool().shape(), state.position()) {
  const StatePool& pool = state.pool();
  slot_ = SlotCopy(stream, pool, state.slot(), position_);
  for (size_t layer = 0; layer < kv_.size(); ++layer)
    for (int64_t i = 0; kv_[layer] && i < kv_[layer].dim(0); ++i)
      copy(stream, kv_[layer].at(i), pool.kv_pages()[layer].at(state.pages()[size_t(i)]));
  stream.synchronize();
  for (const Tensor& kv : kv_)
    if (kv && position_ % kGrid) clear_page_from(kv.at(kv.dim(0) - 1), position_ % kGrid);
}

StateImage StateImage::twin() const {
  StateImage made(shape_, position_);
  std::memcpy(made.slot_.memory.data(), slot_.memory.data(), slot_.memory.bytes());
  if (memory_.bytes() > 0) std::memcpy(made.memory_.data(), memory_.data(), memory_.bytes());
  return made;
}

SequenceState StateImage::place(Stream& stream, StatePool& pool) const {
  if (pool.shape() != shape_)
    fail(ErrorKind::invalid_input, "the saved state is of a model of another shape or element type");
  PageList pages(pool);
  pages.grow(pages_for(position_));
  SequenceState state(pool, position_, std::move(pages));
  slot_.put(stream, pool, state.slot());
  for (size_t layer = 0; layer < kv_.size(); ++layer)
    for (int64_t i = 0; kv_[layer] && i < kv_[layer].dim(0); ++i)
      copy(stream, pool.kv_pages()[layer].at(state.pages()[size_t(i)]), kv_[layer].at(i));
  stream.synchronize();
  return state;
}

std::vector<StateImage::Part> StateImage::parts() const {
  std::vector<Part> parts;
  for (size_t layer = 0; layer < kv_.size(); ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    if (kv_[layer]) parts.push_back({prefix + "kv", kv_[layer]});
    else parts.push_back({prefix + "state", slot_.state[layer]}), parts.push_back({prefix + "tail", slot_.tail[layer]});
  }
  return parts;
}

}  // namespace fulgur

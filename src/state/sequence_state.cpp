#include "state/sequence_state.h"

#include <cstring>
#include <utility>

namespace fulgur {
namespace {

// body(slot's tensor in the pool, the tensor in main memory) of every lightning layer's state and tail.
template <class Body>
void for_slot(const StatePool& pool, int32_t slot, const SlotCopy& copy, const Body& body) {
  for (size_t layer = 0; layer < copy.state.size(); ++layer) {
    if (!copy.state[layer]) continue;
    body(pool.state()[layer].at(slot), copy.state[layer]);
    body(pool.tail()[layer].at(slot), copy.tail[layer]);
  }
}

void clear_tail_from(Tensor tail, int64_t row) {
  for (int64_t head = 0; head < tail.dim(0); ++head)
    for (int64_t part = 0; part < 2; ++part) {
      const Tensor rest = tail.at(head).at(part).rows(row, kGrid);
      std::memset(rest.data, 0, size_t(rest.bytes()));
    }
}

}  // namespace

SlotCopy::SlotCopy(const StateShape& s) : memory(size_t(s.slot_bytes()), Purpose::state) {
  std::byte* next = memory.data();
  const auto carve = [&](DType type, std::initializer_list<int64_t> shape) {
    const Tensor t = contiguous(next, type, {}, shape);
    next += t.bytes();
    return t;
  };
  for (const bool lightning : s.lightning) {
    state.push_back(lightning ? carve(wide(s.type), {s.heads, s.head_dim, s.head_dim}) : Tensor{});
    tail.push_back(lightning ? carve(s.type, {s.heads, 2, kGrid, s.head_dim}) : Tensor{});
  }
}

SlotCopy::SlotCopy(Stream& stream, const StatePool& pool, int32_t slot, int64_t position) : SlotCopy(pool.shape()) {
  for_slot(pool, slot, *this, [&](Tensor there, Tensor here) { copy(stream, here, there); });
  stream.synchronize();
  for (const Tensor& t : tail)
    if (t) clear_tail_from(t, position % kGrid);
}

void SlotCopy::put(Stream& stream, const StatePool& pool, int32_t slot) const {
  for_slot(pool, slot, *this, [&](Tensor there, Tensor here) { copy(stream, there, here); });
  stream.synchronize();
}

SequenceState::SequenceState(StatePool& pool, Stream& stream) : SequenceState(pool, 0, PageList(pool)) {
  for (size_t layer = 0; layer < pool.state().size(); ++layer) {
    if (!pool.state()[layer]) continue;
    clear(stream, pool.state()[layer].at(slot_));
    clear(stream, pool.tail()[layer].at(slot_));
  }
}

SequenceState::SequenceState(StatePool& pool, int64_t position, PageList pages)
    : pool_(&pool), position_(position), slot_(pool.take_slot()), pages_(std::move(pages)) {}

SequenceState::SequenceState(SequenceState&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      position_(other.position_),
      slot_(other.slot_),
      pages_(std::move(other.pages_)) {}

SequenceState::~SequenceState() {
  if (pool_) pool_->give_back_slot(slot_);
}

int64_t SequenceState::pages_to_reserve(int64_t tokens) const {
  const int64_t open = position_ / kGrid;
  const bool copies = tokens > 0 && open < pages_.size() && pool_->is_shared(pages_.numbers()[size_t(open)]);
  return std::max<int64_t>(pages_for(position_ + tokens) - pages_.size(), 0) + copies;
}

void SequenceState::reserve(Stream& stream, int64_t tokens) {
  if (tokens == 0) return;
  const int64_t open = position_ / kGrid;  // the page that is written next; all later ones are fresh
  if (open < pages_.size()) pages_.make_own(stream, open);
  pages_.grow(pages_for(position_ + tokens));
}

void SequenceState::advance(int64_t tokens) {
  expect(position_ + tokens <= pages_.size() * kGrid, "a sequence advances over reserved positions");
  position_ += tokens;
}

void SequenceState::undo(int64_t tokens) {
  if (tokens < 0 || tokens > undoable())
    fail(ErrorKind::invalid_input, "cannot undo " + std::to_string(tokens) + " tokens at position " +
                                       std::to_string(position_) + ": expected at most " + std::to_string(undoable()) +
                                       "; go back to a checkpoint for more");
  position_ -= tokens;
  pages_.cut(pages_for(position_));
}

SequenceState SequenceState::fork(Stream& stream) const {
  PageList shared = pages_;
  shared.cut(pages_for(position_));
  SequenceState twin(*pool_, position_, std::move(shared));
  for (const std::span<const Tensor> layers : {pool_->state(), pool_->tail()})
    for (const Tensor& layer : layers)
      if (layer) copy(stream, layer.at(twin.slot_), layer.at(slot_));
  return twin;
}

StateCheckpoint SequenceState::checkpoint(Stream& stream) const {
  StateCheckpoint made{position_, SlotCopy(stream, *pool_, slot_, position_), pages_};
  made.pages.cut(pages_for(position_));
  return made;
}

void SequenceState::restore(Stream& stream, const StateCheckpoint& checkpoint) {
  checkpoint.slot.put(stream, *pool_, slot_);
  pages_ = checkpoint.pages;
  position_ = checkpoint.position;
}

}  // namespace fulgur

#include "state/sequence_state.h"

#include <string>
#include <utility>

namespace fulgur {
namespace {

int64_t state_elements(const StateShape& s) { return s.heads * s.head_dim * s.head_dim; }
int64_t tail_elements(const StateShape& s) { return s.heads * 2 * kGrid * s.head_dim; }
int64_t page_elements(const StateShape& s) { return 2 * s.kv_heads * kGrid * s.head_dim; }

int64_t count(const StateShape& s, bool lightning) {
  int64_t layers = 0;
  for (const bool kind : s.lightning) layers += kind == lightning;
  return layers;
}

// The numbers n - 1 ... 0, so that the lowest is taken first.
std::vector<int32_t> descending(int64_t n) {
  std::vector<int32_t> numbers(static_cast<size_t>(n));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = int32_t(n - 1) - int32_t(i);
  return numbers;
}

int32_t take(std::vector<int32_t>& free, const char* what) {
  if (free.empty()) fail(ErrorKind::out_of_memory, std::string("no free ") + what + " is left for another sequence");
  const int32_t taken = free.back();
  free.pop_back();
  return taken;
}

}  // namespace

int64_t StateShape::slot_bytes() const {
  return count(*this, true) * (state_elements(*this) * byte_size(wide(type)) + tail_elements(*this) * byte_size(type));
}

int64_t StateShape::page_bytes() const { return count(*this, false) * page_elements(*this) * byte_size(type); }

StatePool::StatePool(const StateShape& s, int64_t slots, int64_t pages, DeviceId device)
    : memory_(size_t(slots * s.slot_bytes() + pages * s.page_bytes()), Purpose::state, device),
      free_slots_(descending(slots)),
      free_pages_(descending(pages)) {
  std::byte* next = memory_.data();
  const auto carve = [&](DType type, std::initializer_list<int64_t> shape) {
    const Tensor t = contiguous(next, type, device, shape);
    next += t.bytes();
    return t;
  };
  for (const bool lightning : s.lightning) {
    state_.push_back(lightning ? carve(wide(s.type), {slots, s.heads, s.head_dim, s.head_dim}) : Tensor{});
    tail_.push_back(lightning ? carve(s.type, {slots, s.heads, 2, kGrid, s.head_dim}) : Tensor{});
    kv_pages_.push_back(lightning ? Tensor{} : carve(s.type, {pages, 2, s.kv_heads, kGrid, s.head_dim}));
  }
}

int32_t StatePool::take_slot(Stream& stream) {
  const int32_t slot = take(free_slots_, "state slot");
  for (size_t layer = 0; layer < state_.size(); ++layer) {
    if (!state_[layer]) continue;
    clear(stream, state_[layer].rows(slot, slot + 1));
    clear(stream, tail_[layer].rows(slot, slot + 1));
  }
  return slot;
}

int32_t StatePool::take_page() { return take(free_pages_, "KV page"); }

SequenceState::SequenceState(StatePool& pool, Stream& stream) : pool_(&pool), slot_(pool.take_slot(stream)) {}

SequenceState::SequenceState(SequenceState&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      position_(other.position_),
      slot_(other.slot_),
      pages_(std::move(other.pages_)) {}

SequenceState::~SequenceState() {
  if (!pool_) return;
  pool_->free_slots_.push_back(slot_);
  pool_->free_pages_.insert(pool_->free_pages_.end(), pages_.rbegin(), pages_.rend());
}

void SequenceState::reserve(int64_t tokens) {
  const int64_t needed = (position_ + tokens + kGrid - 1) / kGrid;
  while (int64_t(pages_.size()) < needed) pages_.push_back(pool_->take_page());
}

void SequenceState::advance(int64_t tokens) {
  expect(position_ + tokens <= int64_t(pages_.size()) * kGrid, "a sequence advances over reserved positions");
  position_ += tokens;
}

}  // namespace fulgur

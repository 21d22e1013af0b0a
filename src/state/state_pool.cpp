#include "state/state_pool.h"

#include <string>
#include <utility>

#include "device/poison.h"

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

void poison_part(const std::vector<Tensor>& layers, int32_t number) {
  for (const Tensor& layer : layers) {
    if (!layer) continue;
    const Tensor one = layer.rows(number, number + 1);
    poison(one.device, one.data, size_t(one.bytes()));
  }
}

}  // namespace

int64_t StateShape::slot_bytes() const {
  return count(*this, true) * (state_elements(*this) * byte_size(wide(type)) + tail_elements(*this) * byte_size(type));
}

int64_t StateShape::page_bytes() const { return count(*this, false) * page_elements(*this) * byte_size(type); }

StatePool::StatePool(const StateShape& s, int64_t slots, int64_t pages, DeviceId device)
    : shape_(s),
      memory_(size_t(slots * s.slot_bytes() + pages * s.page_bytes()), Purpose::state, device),
      free_slots_(descending(slots)),
      free_pages_(descending(pages)),
      page_users_(size_t(pages), 0) {
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

int32_t StatePool::take_slot() { return take(free_slots_, "state slot"); }

void StatePool::give_back_slot(int32_t slot) {
  if (poisons()) poison_part(state_, slot), poison_part(tail_, slot);
  free_slots_.push_back(slot);
}

int32_t StatePool::take_page() {
  const int32_t page = take(free_pages_, "KV page");
  page_users_[size_t(page)] = 1;
  return page;
}

void StatePool::give_back_page(int32_t page) {
  int32_t& users = page_users_[size_t(page)];
  expect(users > 0, "a page that is given back was taken");
  if (--users > 0) return;
  if (poisons()) poison_part(kv_pages_, page);
  free_pages_.push_back(page);
}

void StatePool::copy_page(Stream& stream, int32_t to, int32_t from) {
  for (const Tensor& pages : kv_pages_)
    if (pages) copy(stream, pages.rows(to, to + 1), pages.rows(from, from + 1));
}

PageList::PageList(const PageList& other) : pool_(other.pool_), pages_(other.pages_) {
  for (const int32_t page : pages_) pool_->share_page(page);
}

PageList& PageList::operator=(PageList other) noexcept {
  std::swap(pool_, other.pool_), std::swap(pages_, other.pages_);
  return *this;
}

void PageList::grow(int64_t size) {
  while (this->size() < size) pages_.push_back(pool_->take_page());
}

void PageList::cut(int64_t size) {
  while (this->size() > size) pool_->give_back_page(pages_.back()), pages_.pop_back();
}

void PageList::make_own(Stream& stream, int64_t index) {
  int32_t& page = pages_[size_t(index)];
  if (!pool_->is_shared(page)) return;
  const int32_t own = pool_->take_page();
  pool_->copy_page(stream, own, page);
  pool_->give_back_page(std::exchange(page, own));
}

}  // namespace fulgur

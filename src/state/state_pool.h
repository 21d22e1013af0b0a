// StatePool: the memory of all sequences' states on one device, in slots and pages.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/grid.h"
#include "device/buffer.h"
#include "device/stream.h"

namespace fulgur {

// What one sequence needs of memory, layer by layer.
struct StateShape {
  std::vector<bool> lightning;  // per layer: lightning, else softmax
  int64_t heads, kv_heads, head_dim;
  DType type;  // run type: of the tail and of the pages; states are wide

  int64_t slot_bytes() const;  // states and tails of one sequence
  int64_t page_bytes() const;  // 64 positions of every softmax layer
  bool operator==(const StateShape&) const = default;
};

inline int64_t pages_for(int64_t tokens) { return (tokens + kGrid - 1) / kGrid; }

// Where a Batch finds it: one tensor per layer. Per lightning layer a slot holds `state`, wide [heads, head_dim,
// head_dim], at the last multiple of 64 tokens, and `tail`, [heads, 2, 64, head_dim], the k and v rows since (after
// SiLU, not decayed). How many rows of the tail count is position % 64, nowhere else. A page is [2, kv_heads, 64,
// head_dim], k after rotary. What is given back is poisoned (device/poison.h).
class StatePool {
 public:
  // Throws out_of_memory with the bytes asked and free.
  StatePool(const StateShape& shape, int64_t slots, int64_t pages, DeviceId device = {});
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  const StateShape& shape() const { return shape_; }
  std::span<const Tensor> state() const { return state_; }        // wide [slots, heads, head_dim, head_dim]
  std::span<const Tensor> tail() const { return tail_; }          // [slots, heads, 2, 64, head_dim]
  std::span<const Tensor> kv_pages() const { return kv_pages_; }  // [pages, 2, kv_heads, 64, head_dim]
  int64_t free_slots() const { return int64_t(free_slots_.size()); }
  int64_t free_pages() const { return int64_t(free_pages_.size()); }
  int64_t all_pages() const { return int64_t(page_users_.size()); }

  int32_t take_slot();  // throws out_of_memory when none is left, as take_page
  void give_back_slot(int32_t slot);
  int32_t take_page();  // with one user
  void share_page(int32_t page) { ++page_users_[size_t(page)]; }
  void give_back_page(int32_t page);  // free once its last user has given it back
  bool is_shared(int32_t page) const { return page_users_[size_t(page)] > 1; }
  void copy_page(Stream& stream, int32_t to, int32_t from);

 private:
  StateShape shape_;
  Buffer memory_;
  std::vector<Tensor> state_, tail_, kv_pages_;
  std::vector<int32_t> free_slots_, free_pages_, page_users_;
};

// KV pages in the order of their positions. Copies share the pages.
class PageList {
 public:
  explicit PageList(StatePool& pool) : pool_(&pool) {}
  PageList(const PageList& other);
  PageList(PageList&& other) noexcept : pool_(other.pool_), pages_(std::move(other.pages_)) { other.pages_.clear(); }
  PageList& operator=(PageList other) noexcept;
  ~PageList() { cut(0); }

  std::span<const int32_t> numbers() const { return pages_; }
  int64_t size() const { return int64_t(pages_.size()); }
  void grow(int64_t size);  // takes free pages; throws out_of_memory when none is left
  void cut(int64_t size);   // gives the last ones back
  // A page that others use too is replaced by a copy.
  void make_own(Stream& stream, int64_t index);

 private:
  StatePool* pool_;
  std::vector<int32_t> pages_;
};

}  // namespace fulgur

// SequenceState: everything the model remembers of one sequence. Both halves, lightning slots and KV pages, always
// stand at the same position; only advance() moves it.
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
};

// The memory of all slots and pages of one device, and where a Batch finds it: one tensor per layer.
// Per lightning layer a slot holds `state`, wide [heads, head_dim, head_dim], at the last multiple of 64 tokens, and
// `tail`, [heads, 2, 64, head_dim], the k and v rows since (after SiLU, not decayed). How many rows of the tail count
// is position % 64, nowhere else. A page is [2, kv_heads, 64, head_dim], k after rotary.
class StatePool {
 public:
  // Throws out_of_memory with the bytes asked and free.
  StatePool(const StateShape& shape, int64_t slots, int64_t pages, DeviceId device = {});

  std::span<const Tensor> state() const { return state_; }        // wide [slots, heads, head_dim, head_dim]
  std::span<const Tensor> tail() const { return tail_; }          // [slots, heads, 2, 64, head_dim]
  std::span<const Tensor> kv_pages() const { return kv_pages_; }  // [pages, 2, kv_heads, 64, head_dim]

 private:
  friend class SequenceState;
  int32_t take_slot(Stream& stream);  // zeroed; throws out_of_memory when none is left
  int32_t take_page();                // throws out_of_memory when none is left

  Buffer memory_;
  std::vector<Tensor> state_, tail_, kv_pages_;
  std::vector<int32_t> free_slots_, free_pages_;
};

class SequenceState {
 public:
  SequenceState(StatePool& pool, Stream& stream);  // position 0
  SequenceState(SequenceState&& other) noexcept;
  SequenceState& operator=(SequenceState&&) = delete;
  ~SequenceState();  // returns slot and pages to the pool

  int64_t position() const { return position_; }  // tokens it covers
  int32_t slot() const { return slot_; }
  std::span<const int32_t> pages() const { return pages_; }

  void reserve(int64_t tokens);  // pages for the next tokens; throws out_of_memory
  void advance(int64_t tokens);  // after forward() wrote both halves

 private:
  StatePool* pool_;
  int64_t position_ = 0;
  int32_t slot_;
  std::vector<int32_t> pages_;
};

}  // namespace fulgur

// SequenceState: everything the model remembers of one sequence. Both halves, lightning slots and KV pages, always
// stand at the same position.
#pragma once
#include "state/state_pool.h"

namespace fulgur {

// Copies of one slot's tensors in main memory, per layer as in StatePool; rows of the tail that do not count are zero.
struct SlotCopy {
  Buffer memory;
  std::vector<Tensor> state, tail;  // wide [heads, head_dim, head_dim], [heads, 2, 64, head_dim]

  explicit SlotCopy(const StateShape& shape);  // zeros
  SlotCopy(Stream& stream, const StatePool& pool, int32_t slot, int64_t position);
  void put(Stream& stream, const StatePool& pool, int32_t slot) const;
};

// A sequence's state at one token, to go back to: the slot is copied, pages are shared with the sequence.
struct StateCheckpoint {
  int64_t position;
  SlotCopy slot;
  PageList pages;
};

class SequenceState {
 public:
  SequenceState(StatePool& pool, Stream& stream);  // position 0; throws out_of_memory when no slot is left
  SequenceState(SequenceState&& other) noexcept;
  SequenceState& operator=(SequenceState&&) = delete;
  ~SequenceState();  // returns slot and pages to the pool

  int64_t position() const { return position_; }  // tokens it covers
  int32_t slot() const { return slot_; }
  std::span<const int32_t> pages() const { return pages_.numbers(); }
  StatePool& pool() const { return *pool_; }

  // Pages for the next tokens that no other sequence reads; throws out_of_memory, and then has changed nothing that
  // counts.
  void reserve(Stream& stream, int64_t tokens);
  // How many free pages reserve would take.
  int64_t pages_to_reserve(int64_t tokens) const;
  void advance(int64_t tokens);  // after forward() wrote both halves

  // Forgets the last tokens, at most as many as the tail holds: the state stands at the last multiple of 64.
  int64_t undoable() const { return position_ % kGrid; }
  void undo(int64_t tokens);

  // A second sequence with the same past: the slot is copied, the pages are shared until one of both writes to them.
  SequenceState fork(Stream& stream) const;
  StateCheckpoint checkpoint(Stream& stream) const;
  void restore(Stream& stream, const StateCheckpoint& checkpoint);

 private:
  SequenceState(StatePool& pool, int64_t position, PageList pages);
  friend class StateImage;

  StatePool* pool_;
  int64_t position_ = 0;
  int32_t slot_;
  PageList pages_;
};

}  // namespace fulgur

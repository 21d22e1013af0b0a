// StateImage: a sequence's whole state outside any pool, in main memory. What a preempted sequence and a saved session
// keep. Bytes that do not count are zero, so that equal states have equal images, and nothing of another sequence is in
// one.
#pragma once
#include "state/sequence_state.h"

namespace fulgur {

class StateImage {
 public:
  StateImage(const StateShape& shape, int64_t position);  // room for one, zeros; throws out_of_memory
  StateImage(Stream& stream, const SequenceState& state);
  StateImage twin() const;  // equal, with memory of its own

  int64_t position() const { return position_; }
  const StateShape& shape() const { return shape_; }
  size_t bytes() const { return slot_.memory.bytes() + memory_.bytes(); }

  // A sequence of this state; throws out_of_memory when the pool has no slot or too few pages, invalid_input when its
  // shape is another.
  SequenceState place(Stream& stream, StatePool& pool) const;

  // The tensors in order: per lightning layer `layers.N.state` and `layers.N.tail`, per softmax layer `layers.N.kv`,
  // [pages, 2, kv_heads, 64, head_dim].
  struct Part {
    std::string name;
    Tensor tensor;
  };
  std::vector<Part> parts() const;

 private:
  int64_t position_;
  StateShape shape_;
  SlotCopy slot_;
  Buffer memory_;
  std::vector<Tensor> kv_;  // per layer; empty for lightning layers
};

}  // namespace fulgur

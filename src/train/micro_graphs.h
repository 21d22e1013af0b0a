// MicroGraphs: what a micro-batch of a training step gives a GPU, captured once and launched as a whole for every later
// one of the same shapes. A step is not one graph: it has many micro-batches alike, packed documents give each its own
// shape out of a few, and the host reads the loss before it decides on the update.
#pragma once
#include <compare>
#include <variant>

#include "device/graph_cache.h"
#include "train/micro_batch.h"

namespace fulgur {

// Of one run: what its configuration says of all steps is no part of a shape.
class MicroGraphs {
 public:
  // body(there) is the work on a copy of `micro` in `room`: it accumulates to `gradients` and ends with the arenas as
  // it found them.
  template <class Body>
  void run(const Exec& exec, const MicroBatch& micro, const MicroBatch& room, Tensor gradients, const Balance& balance,
           const Body& body) {
    const MicroBatch there = placed(exec.stream, micro, room);
    const Shape shape{.rows = there.batch.rows(),
                      .sequences = there.batch.sequences(),
                      .longest = there.batch.longest,
                      .gradients = gradients.data,
                      .first = balance.first,
                      .scale = balance.scale,
                      .z_scale = balance.z_scale,
                      .scratch = exec.scratch.used_bytes(),
                      .tape = exec.tape.used_bytes()};
    graphs_.run(exec.stream, shape, [&] { return body(there), std::monostate(); });
  }

  int64_t launched() const { return graphs_.launched(); }  // micro-batches, as graphs

 private:
  struct Shape {
    int64_t rows, sequences, longest;
    const std::byte* gradients;  // one of the lanes' tree
    bool first;                  // of its lane
    double scale, z_scale;       // of the routers' losses: they change where a step's tokens do
    size_t scratch, tape;        // where its own memory begins
    auto operator<=>(const Shape&) const = default;
  };

  GraphCache<Shape, std::monostate> graphs_;
};

}  // namespace fulgur

// --check-twins: every operator that a GPU's stream runs is run again by its CPU twin, on copies of the same operands,
// and the results are compared: says which operator, layer and row first differ by more than rounding.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "device/recorder.h"
#include "model/weights.h"
#include "ops/operand_image.h"

namespace fulgur::bench {

class CheckTwins {
 public:
  // Watches the stream's calls from now on, as long as both live. Throws invalid_input for a CPU's stream.
  CheckTwins(Stream& stream, const ModelWeights& weights, int threads);
  ~CheckTwins();

  // A line for each operator: calls, and the largest gap beside its bound.
  std::string table() const;
  // Throws device with the first difference beyond its bound.
  void judge() const;

 private:
  struct Seen {
    int64_t calls = 0;
    double gap = 0, bound = 0;  // of the call whose gap is largest beside its bound
  };
  std::function<void(void*, const void*, size_t)> reader();  // copies from the GPU, and waits
  void compare(const OperatorCall& call, const Replay& replay);
  void note_layer(const OperatorCall& call);

  Stream& stream_;
  const ModelWeights& weights_;
  Stream host_;
  Recorder recorder_;
  std::optional<OperandImage> before_;
  std::map<std::string, Seen> seen_;
  std::string layer_ = "before all layers", first_;
};

}  // namespace fulgur::bench

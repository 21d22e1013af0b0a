// Replayed: a recorded call with its own copies of the operands, run again at will: what `bench ops` times and the
// instruction counts are taken of.
#pragma once
#include <vector>

#include "device/buffer.h"
#include "device/recorder.h"

namespace fulgur::bench {

class Replayed {
 public:
  // Before the call itself runs, so that the copies hold what it reads. Operands on the CPU. `cache`: bytes that the
  // sets of operands have to exceed together; they rotate. Throws out_of_memory.
  Replayed(const OperatorCall& call, Replay replay, int64_t cache);

  // Makes the set of run i ready: inputs as they were, what is only written poisoned.
  void prepare(int64_t i);
  void run(Stream& stream, int64_t i);
  // True where the last run wrote the same bits as the first one.
  bool repeats(int64_t i);

  // Seconds of the fastest run; every run's results are compared.
  double seconds(Stream& stream, double least_seconds);

 private:
  struct Set {
    std::vector<Buffer> memory;
    std::vector<Tensor> tensors;
  };
  Set copy_of(const OperatorCall& call) const;
  size_t at(int64_t i) const { return size_t(i) % sets_.size(); }

  Replay replay_;
  std::vector<TouchedTensor> touched_;
  std::vector<Set> sets_;          // inputs of each are filled once; what is written is restored from the first copy
  std::vector<Buffer> originals_;  // of the operands that are read and written
  std::string digest_;             // of what the first run wrote
};

}  // namespace fulgur::bench

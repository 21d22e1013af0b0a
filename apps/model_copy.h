// What commands share that write a model anew: the other files beside it, and their progress.
#pragma once
#include <filesystem>

#include "base/progress.h"
#include "files/safetensors.h"

namespace fulgur {

// Tokenizer, chat template, generation settings, licence: whatever is neither configuration nor weights. Throws
// not_found.
void copy_other_files(const std::filesystem::path& from, const std::filesystem::path& to);

// Counts tensors and the bytes that were read for them.
class TensorCounter {
 public:
  explicit TensorCounter(int64_t tensors) : progress_("tensor", tensors, "bytes") {}
  void add(int64_t bytes) { progress_.update(++tensors_, bytes_ += bytes); }

 private:
  Progress progress_;
  int64_t tensors_ = 0, bytes_ = 0;
};

}  // namespace fulgur

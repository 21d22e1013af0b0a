// Counts how deep a parser or an evaluator is inside itself, so that no template can exhaust the stack.
#pragma once
#include <string>

#include "text/jinja_value.h"

namespace fulgur::jinja {

class Depth {
 public:
  Depth(int& depth, int limit, const char* what) : depth_(depth) {
    if (depth_ >= limit) unsupported(std::string(what) + " nested more than " + std::to_string(limit) + " deep");
    ++depth_;
  }
  ~Depth() { --depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  int& depth_;
};

}  // namespace fulgur::jinja

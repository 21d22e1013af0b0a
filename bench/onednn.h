// oneDNN beside ours: the plug-in (bench/onednn_plugin.h) found at run time, or nothing.
#pragma once
#include "bench/onednn_plugin.h"

namespace fulgur::bench {

struct Onednn {
  void* (*create)(const FulgurOnednnProduct*) = nullptr;
  void (*run)(void* product, const void* a, const void* b, void* c) = nullptr;
  void (*destroy)(void* product) = nullptr;

  explicit operator bool() const { return create != nullptr; }
};

// Loaded once, from the folder of the program. False: there is no plug-in, or the library it needs is missing.
const Onednn& onednn();

}  // namespace fulgur::bench

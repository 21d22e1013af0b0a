#include "bench/onednn.h"

#include <dlfcn.h>

#include <filesystem>

namespace fulgur::bench {
namespace {

Onednn loaded() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  void* const library = dlopen((program.parent_path() / "libfulgur_onednn.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {};
  Onednn o;
  o.create = reinterpret_cast<decltype(o.create)>(dlsym(library, "fulgur_onednn_create"));
  o.run = reinterpret_cast<decltype(o.run)>(dlsym(library, "fulgur_onednn_run"));
  o.destroy = reinterpret_cast<decltype(o.destroy)>(dlsym(library, "fulgur_onednn_destroy"));
  return o.create && o.run && o.destroy ? o : Onednn{};
}

}  // namespace

const Onednn& onednn() {
  static const Onednn kept = loaded();
  return kept;
}

}  // namespace fulgur::bench

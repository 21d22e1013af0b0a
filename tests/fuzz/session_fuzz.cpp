// A saved session of a model of two layers.
// sources: src/generate/session_file.cpp src/files/safetensors.cpp src/state/state_image.cpp
#include "generate/session_file.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fulgur;
  static const StateShape shape{
      .lightning = {true, false}, .heads = 1, .kv_heads = 1, .head_dim = 2, .type = DType::f32};
  const fuzz::MemoryFile file(data, size);
  fuzz::run([&] { load_session(file.path(), {.model = "m", .chat_template = "", .dtype = "f32"}, shape); });
  return 0;
}

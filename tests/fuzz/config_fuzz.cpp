// config.json, and what it becomes in the other family's words.
// sources: src/model/config.cpp src/model/config_json.cpp src/model/config_family.cpp src/files/json_file.cpp
#include "model/config_family.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fulgur;
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::run([&] {
    const ModelConfig config = parse_config(text, "config.json");
    for (const Family family : {Family::minimax, Family::minimax_text_01})
      fuzz::run([&] { parse_config(config_in_family(text, config, family), "converted"); });
  });
  return 0;
}

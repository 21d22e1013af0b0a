// A chat template, rendered for one conversation with a tool.
// sources: src/text/chat_template.cpp src/text/jinja_*.cpp src/text/python_text.cpp
#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fulgur;
  using Json = nlohmann::ordered_json;
  static const Json messages = Json::parse(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": "hello\n\u4f60"},
          {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5]}}}]},
          {"role": "tool", "content": [{"type": "text", "text": "t"}]}, {"role": "user", "content": "bye"}])");
  static const Json tools = Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters": {}}}])");
  fuzz::run([&] {
    ChatTemplate::parse(fuzz::text_of(data, size), "template")
        .render({.messages = messages, .tools = tools, .variables = nullptr, .now = 1700000000});
  });
  return 0;
}

// A model's chat template: messages to the text that the model was trained to continue, as transformers'
// apply_chat_template renders it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

struct ChatInput;

class ChatTemplate {
 public:
  // `model`: a folder with chat_template.jinja or, in tokenizer_config.json, `chat_template`; or one of those files. Of
  // several named templates it is `tool_use` where tools are given and there is one, else `default`. The special tokens
  // of tokenizer_config.json become variables. Throws not_found, corrupt_file with the line, unsupported.
  static ChatTemplate load(const std::filesystem::path& model);
  // Only a text; `name` is what messages call it.
  static ChatTemplate parse(std::string_view text, const std::string& name);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Throws invalid_input, with the template's name and line, for what the template or Python refuses: raise_exception,
  // an undefined value, operands of wrong types; unsupported for what this program cannot.
  std::string render(const ChatInput& input) const;

  // Equal for two templates only if their texts and special tokens are.
  std::string digest() const;

 private:
  struct Named;
  ChatTemplate();
  void add(const std::string& name, const std::string& origin, std::string_view text);
  void add_from_config(const std::filesystem::path& file, bool with_templates);
  std::vector<Named> named_;
  std::string texts_;                                       // all of them, one behind the other
  std::unique_ptr<nlohmann::ordered_json> special_tokens_;  // an object: name to text or list of texts
};

// What a template sees.
struct ChatInput {
  const nlohmann::ordered_json& messages;   // a list of objects
  const nlohmann::ordered_json& tools;      // a list, or null
  const nlohmann::ordered_json& variables;  // an object: more of them, also to replace special tokens; or null
  bool add_generation_prompt = true;
  int64_t now = 0;  // seconds since 1970, for templates that show the date
};

}  // namespace fulgur

// From an answer's tokens to the text that is shown of it.
#pragma once
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace fulgur {

// Whole characters only, and nothing from the first stop string on. What may yet become one is held back.
class AnswerText {
 public:
  AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stop_strings);

  std::string feed(int32_t token);  // what can be shown now
  std::string flush();              // the rest, when no token follows
  bool stopped() const { return stopped_; }

 private:
  std::string show(const std::string& more, bool is_all);

  const Tokenizer& tokenizer_;
  StreamingDecoder decoder_;
  std::vector<std::string> stop_strings_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace fulgur

// Pre-tokenizers: cut text into the words inside which byte pairs merge. Hand-written scanners give what the published
// regular expressions would.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace fulgur {

// One regular expression that finds pieces.
enum class SplitRule : uint8_t { gpt2, cl100k, qwen, o200k, deepseek_digits, deepseek_east_asian, deepseek_words };

// Every step cuts the pieces of the step before; what lies between two matches is a piece too.
using PreTokenizer = std::vector<SplitRule>;

// The rule that a regular expression in tokenizer.json stands for.
std::optional<SplitRule> rule_of_pattern(std::string_view pattern);
std::string_view pattern_of_rule(SplitRule rule);

// The pieces of one text, which must be valid UTF-8 and outlive the splitter.
class Splitter {
 public:
  Splitter(const PreTokenizer& rules, std::string_view text);

  // The next piece; empty when there is none left.
  std::string_view next() { return next_of(steps_.size() - 1); }

 private:
  struct Step {
    SplitRule rule;
    const char *at, *end;   // what is left of the piece of the step before
    const char* match_end;  // of the match that starts at `at`, if one is known
  };
  std::string_view next_of(size_t step);
  const char* match(SplitRule rule, const char* at, const char* end) const;

  const CharFlags* flags_;
  std::vector<Step> steps_;
};

}  // namespace fulgur

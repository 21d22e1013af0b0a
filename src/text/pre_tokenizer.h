// Pre-tokenizers: cut text into the words inside which byte pairs merge. Hand-written scanners give what the published
// regular expressions would.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex_rule.h"
#include "text/unicode.h"

namespace fulgur {

// Which regular expression finds pieces; `regex` is any that has no scanner.
enum class SplitRule : uint8_t {
  gpt2,
  cl100k,
  qwen,
  o200k,
  deepseek_digits,
  deepseek_east_asian,
  deepseek_words,
  regex
};

// What becomes of the text between two matches.
enum class Gaps : uint8_t { are_pieces, vanish };

struct SplitStep {
  SplitStep(SplitRule of, Gaps between = Gaps::are_pieces) : rule(of), gaps(between) {}
  // The scanner of this pattern, else ICU. Throws unsupported where ICU does not understand it either.
  SplitStep(std::string_view pattern, Gaps between);
  static SplitStep by_icu(std::string pattern, Gaps between);

  std::string_view pattern() const;

  SplitRule rule;
  Gaps gaps;
  std::shared_ptr<const RegexRule> regex;
};

// Every step cuts the pieces of the step before.
using PreTokenizer = std::vector<SplitStep>;

// The pieces of one text, which must be valid UTF-8 and outlive the splitter.
class Splitter {
 public:
  Splitter(const PreTokenizer& steps, std::string_view text);

  // The next piece; empty when there is none left.
  std::string_view next() { return next_of(steps_.size() - 1); }

 private:
  struct Step {
    SplitRule rule;
    Gaps gaps;
    std::unique_ptr<RegexSearch> search;
    const char *at = nullptr, *end = nullptr;                 // what is left of the piece of the step before
    const char *match_begin = nullptr, *match_end = nullptr;  // the next match, if it is known; at the end if none
  };
  std::string_view next_of(size_t step);
  void find_match(Step& step) const;
  const char* match_at(SplitRule rule, const char* at, const char* end) const;

  const CharFlags* flags_;
  std::vector<Step> steps_;
};

}  // namespace fulgur

// Runs the steps of a pre-tokenizer inside each other, so that no list of pieces is ever stored.
#include "text/pre_tokenizer.h"

#include "base/error.h"
#include "text/split_rules.h"

namespace fulgur {
namespace {

struct Pattern {
  SplitRule rule;
  std::string_view text;
};

constexpr Pattern kPatterns[] = {
    {SplitRule::gpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {SplitRule::cl100k,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {SplitRule::qwen,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {SplitRule::o200k,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {SplitRule::deepseek_digits, R"(\p{N}{1,3})"},
    {SplitRule::deepseek_east_asian, "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"},
    {SplitRule::deepseek_words,
     "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
     "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},
};

}  // namespace

std::optional<SplitRule> rule_of_pattern(std::string_view pattern) {
  for (const Pattern& known : kPatterns) {
    if (known.text == pattern) return known.rule;
  }
  return std::nullopt;
}

std::string_view pattern_of_rule(SplitRule rule) {
  for (const Pattern& known : kPatterns) {
    if (known.rule == rule) return known.text;
  }
  broken("every rule has a pattern", Where::caller());
}

Splitter::Splitter(const PreTokenizer& rules, std::string_view text) : flags_(char_flags()) {
  expect(!rules.empty(), "a pre-tokenizer has a rule");
  for (const SplitRule rule : rules) steps_.push_back({rule, nullptr, nullptr, nullptr});
  steps_[0].at = text.data();
  steps_[0].end = text.data() + text.size();
}

std::string_view Splitter::next_of(size_t index) {
  Step& step = steps_[index];
  if (step.at == step.end) {
    if (index == 0) return {};
    const std::string_view piece = next_of(index - 1);
    if (piece.empty()) return {};
    step.at = piece.data();
    step.end = step.at + piece.size();
  }
  const char* begin = step.at;
  const char* match_end = step.match_end ? step.match_end : match(step.rule, begin, step.end);
  step.match_end = nullptr;
  if (match_end) {
    step.at = match_end;
    return {begin, size_t(match_end - begin)};
  }
  while (step.at < step.end && !step.match_end) {
    step.at += char_at(flags_, step.at).bytes;
    if (step.at < step.end) step.match_end = match(step.rule, step.at, step.end);
  }
  return {begin, size_t(step.at - begin)};
}

const char* Splitter::match(SplitRule rule, const char* at, const char* end) const {
  const Span text{flags_, at, end};
  switch (rule) {
    case SplitRule::gpt2: return match_gpt2(text);
    case SplitRule::cl100k: return match_cl100k(text, 3);
    case SplitRule::qwen: return match_cl100k(text, 1);
    case SplitRule::o200k: return match_o200k(text);
    case SplitRule::deepseek_digits: return match_deepseek_digits(text);
    case SplitRule::deepseek_east_asian: return match_deepseek_east_asian(text);
    case SplitRule::deepseek_words: return match_deepseek_words(text);
  }
  return nullptr;
}

}  // namespace fulgur

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
    {SplitRule::cl100k, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                        R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {SplitRule::qwen, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                      R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
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

SplitStep::SplitStep(std::string_view pattern, Gaps between) : rule(SplitRule::regex), gaps(between) {
  for (const Pattern& known : kPatterns) {
    if (known.text == pattern) rule = known.rule;
  }
  if (rule == SplitRule::regex) regex = std::make_shared<const RegexRule>(std::string(pattern));
}

SplitStep SplitStep::by_icu(std::string pattern, Gaps between) {
  SplitStep step(SplitRule::regex, between);
  step.regex = std::make_shared<const RegexRule>(std::move(pattern));
  return step;
}

std::string_view SplitStep::pattern() const {
  for (const Pattern& known : kPatterns) {
    if (known.rule == rule) return known.text;
  }
  expect(regex != nullptr, "a rule without a scanner has a regular expression");
  return regex->pattern();
}

Splitter::Splitter(const PreTokenizer& steps, std::string_view text) : flags_(char_flags()) {
  expect(!steps.empty(), "a pre-tokenizer has a step");
  steps_.reserve(steps.size());
  for (const SplitStep& step : steps) {
    steps_.push_back({step.rule, step.gaps, step.regex ? std::make_unique<RegexSearch>(*step.regex) : nullptr});
  }
  steps_[0].at = text.data();
  steps_[0].end = text.data() + text.size();
  if (steps_[0].search) steps_[0].search->start(text);
}

std::string_view Splitter::next_of(size_t index) {
  Step& step = steps_[index];
  while (true) {
    if (step.at == step.end) {
      if (index == 0) return {};
      const std::string_view piece = next_of(index - 1);
      if (piece.empty()) return {};
      step.at = piece.data();
      step.end = step.at + piece.size();
      step.match_begin = nullptr;
      if (step.search) step.search->start(piece);
    }
    if (!step.match_begin) find_match(step);
    const char* begin = step.at;
    const bool is_match = step.match_begin == begin;
    step.at = is_match ? step.match_end : step.match_begin;
    if (is_match) step.match_begin = nullptr;
    const bool counts = is_match || step.gaps == Gaps::are_pieces;
    if (counts && step.at != begin) return {begin, size_t(step.at - begin)};
  }
}

void Splitter::find_match(Step& step) const {
  step.match_begin = step.match_end = step.end;
  if (step.search) {
    step.search->next(step.match_begin, step.match_end);
    return;
  }
  for (const char* at = step.at; at < step.end; at += char_at(flags_, at).bytes) {
    if (const char* end = match_at(step.rule, at, step.end)) {
      step.match_begin = at, step.match_end = end;
      return;
    }
  }
}

const char* Splitter::match_at(SplitRule rule, const char* at, const char* end) const {
  const Span text{flags_, at, end};
  switch (rule) {
    case SplitRule::gpt2: return match_gpt2(text);
    case SplitRule::cl100k: return match_cl100k(text, 3);
    case SplitRule::qwen: return match_cl100k(text, 1);
    case SplitRule::o200k: return match_o200k(text);
    case SplitRule::deepseek_digits: return match_deepseek_digits(text);
    case SplitRule::deepseek_east_asian: return match_deepseek_east_asian(text);
    case SplitRule::deepseek_words: return match_deepseek_words(text);
    case SplitRule::regex: break;
  }
  return nullptr;
}

}  // namespace fulgur

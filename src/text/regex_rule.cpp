// ICU reads the UTF-8 in place, so that its positions are ours.
#include "text/regex_rule.h"

#include <unicode/regex.h>
#include <unicode/utext.h>

#include "base/error.h"

namespace fulgur {

struct RegexRule::Compiled {
  std::unique_ptr<const icu::RegexPattern> pattern;
};

RegexRule::RegexRule(std::string pattern) : pattern_(std::move(pattern)) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError place;
  auto compiled = std::make_unique<Compiled>();
  compiled->pattern.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(pattern_), 0, place, status));
  if (U_FAILURE(status)) {
    fail(ErrorKind::unsupported, std::string("ICU cannot read this regular expression: ") + u_errorName(status) +
                                     " at character " + std::to_string(place.offset));
  }
  compiled_ = std::move(compiled);
}

RegexRule::~RegexRule() = default;

struct RegexSearch::State {
  const std::string& pattern;
  std::unique_ptr<icu::RegexMatcher> matcher;
  UText text = UTEXT_INITIALIZER;
  const char* begin = nullptr;

  void judge(UErrorCode status) const {
    if (U_SUCCESS(status)) return;
    fail(ErrorKind::unsupported, "ICU gives up on pattern '" + pattern + "': " + u_errorName(status));
  }
};

RegexSearch::RegexSearch(const RegexRule& rule) {
  UErrorCode status = U_ZERO_ERROR;
  std::unique_ptr<icu::RegexMatcher> matcher(rule.compiled_->pattern->matcher(status));
  state_ = std::make_unique<State>(State{rule.pattern(), std::move(matcher)});
  state_->judge(status);
}

RegexSearch::~RegexSearch() { utext_close(&state_->text); }

void RegexSearch::start(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  state_->begin = text.data();
  utext_openUTF8(&state_->text, text.data(), int64_t(text.size()), &status);
  state_->judge(status);
  state_->matcher->reset(&state_->text);
}

bool RegexSearch::next(const char*& begin, const char*& end) {
  UErrorCode status = U_ZERO_ERROR;
  const bool found = state_->matcher->find(status);
  state_->judge(status);
  if (!found) return false;
  begin = state_->begin + state_->matcher->start64(status);
  end = state_->begin + state_->matcher->end64(status);
  return true;
}

}  // namespace fulgur

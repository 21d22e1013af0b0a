// RegexRule: a Split pattern that has no scanner of its own, searched by ICU; slower, but any tokenizer.json works.
#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace fulgur {

class RegexRule {
 public:
  // Throws unsupported where ICU does not understand the pattern.
  explicit RegexRule(std::string pattern);
  ~RegexRule();
  const std::string& pattern() const { return pattern_; }

 private:
  friend class RegexSearch;
  struct Compiled;
  std::string pattern_;
  std::unique_ptr<const Compiled> compiled_;
};

// The matches of a rule in one text after another, from the left. The rule must outlive it.
class RegexSearch {
 public:
  explicit RegexSearch(const RegexRule& rule);
  ~RegexSearch();

  void start(std::string_view text);
  // The next match, which may be empty. False if there is none.
  bool next(const char*& begin, const char*& end);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fulgur

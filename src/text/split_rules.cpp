// The scanners follow the expressions' alternatives in order; where a greedy part would have to give characters back,
// the place it would give back to is remembered on the way.
#include "text/split_rules.h"

#include <algorithm>

namespace fulgur {
namespace {

constexpr CharFlags kMaybeUpper = kUpper | kCaseless | kMark;  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
constexpr CharFlags kMaybeLower = kLower | kCaseless | kMark;  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]

bool is_newline(const char* at) { return *at == '\n' || *at == '\r'; }

// End of the run of characters that have any of the `wanted` flags.
inline const char* run_of(CharFlags wanted, Span text) {
  while (text.at < text.end) {
    const Char c = char_at(text.flags, text.at);
    if (!(c.flags & wanted)) break;
    text.at += c.bytes;
  }
  return text.at;
}

// End of the run of characters that have none of the `unwanted` flags.
inline const char* run_without(CharFlags unwanted, Span text) {
  while (text.at < text.end) {
    const Char c = char_at(text.flags, text.at);
    if (c.flags & unwanted) break;
    text.at += c.bytes;
  }
  return text.at;
}

inline const char* run_of_newlines(Span text, char also = '\n') {
  while (text.at < text.end && (is_newline(text.at) || *text.at == also)) ++text.at;
  return text.at;
}

// \p{N}{1,max}
const char* digits(Span text, int max) {
  const char* at = text.at;
  for (; max > 0 && at < text.end; --max) {
    const Char c = char_at(text.flags, at);
    if (!(c.flags & kNumber)) break;
    at += c.bytes;
  }
  return at == text.at ? nullptr : at;
}

enum class Case { exact, any };

// 's|'t|'re|'ve|'m|'ll|'d at `at`, else `at`. In any case U+017F, the long s, is an s too.
const char* contraction(Span text, Case letter_case) {
  const ptrdiff_t left = text.end - text.at;
  if (left < 2 || *text.at != '\'') return text.at;
  const auto letter = [&](int i) {
    const char c = text.at[i];
    return letter_case == Case::any && c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  };
  switch (letter(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd': return text.at + 2;
    case 'r':
    case 'v': return left > 2 && letter(2) == 'e' ? text.at + 3 : text.at;
    case 'l': return left > 2 && letter(2) == 'l' ? text.at + 3 : text.at;
    case '\xC5': return letter_case == Case::any && left > 2 && text.at[2] == '\xBF' ? text.at + 3 : text.at;
    default: return text.at;
  }
}

enum class Newlines { ordinary, separate };

// \s*[\r\n]+ (if newlines are separate), then \s+(?!\S), then \s+
const char* white_space(Span text, Newlines newlines) {
  const char *at = text.at, *after_newline = nullptr, *last = at;
  while (at < text.end) {
    const Char c = char_at(text.flags, at);
    if (!(c.flags & kSpace)) break;
    last = at;
    if (newlines == Newlines::separate && is_newline(at)) after_newline = at + 1;
    at += c.bytes;
  }
  if (at == text.at) return nullptr;
  if (after_newline) return after_newline;
  // Before a word the last white space is left to it, unless there is no other.
  return at == text.end || last == text.at ? at : last;
}

//  ?[ found by `run` ]+: end of the run after at most one leading space, nullptr if the run is empty.
template <class Run>
const char* after_optional_space(Span text, const Run& run) {
  const char* start = text.at + (*text.at == ' ');
  const char* end = run(Span{text.flags, start, text.end});
  return end == start ? nullptr : end;
}

struct CasedWord {
  const char* end;  // where it would begin if there is none
  bool has_lower;   // the first alternative of o200k matched, otherwise the second
};

// Both word alternatives of o200k without their optional first character, before the contraction.
CasedWord cased_word(Span text) {
  const char *at = text.at, *after_both = nullptr;
  while (at < text.end) {
    const Char c = char_at(text.flags, at);
    if (!(c.flags & kMaybeUpper)) {
      if (c.flags & kLower) return {run_of(kMaybeLower, {text.flags, at, text.end}), true};
      break;
    }
    at += c.bytes;
    if (c.flags & kMaybeLower) after_both = at;
  }
  if (after_both) return {after_both, true};
  return {at, false};
}

}  // namespace

const char* match_gpt2(Span text) {
  if (const char* end = contraction(text, Case::exact); end != text.at) return end;
  for (const CharFlags kind : {kLetter, kNumber}) {
    const auto run = [&](Span rest) { return run_of(kind, rest); };
    if (const char* end = after_optional_space(text, run)) return end;
  }
  const auto others = [](Span rest) { return run_without(kSpace | kLetter | kNumber, rest); };
  if (const char* end = after_optional_space(text, others)) return end;
  return white_space(text, Newlines::ordinary);
}

const char* match_cl100k(Span text, int max_digits) {
  if (const char* end = contraction(text, Case::any); end != text.at) return end;
  const Char first = char_at(text.flags, text.at);
  const bool may_lead = !(first.flags & (kLetter | kNumber)) && !is_newline(text.at);
  const char* word = text.at + (may_lead ? first.bytes : 0);
  if (const char* end = run_of(kLetter, {text.flags, word, text.end}); end != word) return end;
  if (const char* end = digits(text, max_digits)) return end;
  const auto others = [](Span rest) { return run_without(kSpace | kLetter | kNumber, rest); };
  if (const char* end = after_optional_space(text, others)) return run_of_newlines({text.flags, end, text.end});
  return white_space(text, Newlines::separate);
}

const char* match_o200k(Span text) {
  const auto with_contraction = [&](const char* end) { return contraction({text.flags, end, text.end}, Case::any); };
  const Char first = char_at(text.flags, text.at);
  if (first.flags & kLetter) return with_contraction(cased_word(text).end);
  if (first.flags & kNumber) return digits(text, 3);
  if (!is_newline(text.at)) {
    const char* rest = text.at + first.bytes;
    const CasedWord word = cased_word({text.flags, rest, text.end});
    if (word.has_lower) return with_contraction(word.end);
    // A mark counts as lower case, so by itself it is a word of the first alternative, before the second is tried.
    if (first.flags & kMark) return with_contraction(rest);
    if (word.end != rest) return with_contraction(word.end);
  }
  const auto others = [](Span left) { return run_without(kSpace | kLetter | kNumber, left); };
  if (const char* end = after_optional_space(text, others)) return run_of_newlines({text.flags, end, text.end}, '/');
  return white_space(text, Newlines::separate);
}

const char* match_deepseek_digits(Span text) { return digits(text, 3); }

const char* match_deepseek_east_asian(Span text) {
  const char* at = text.at;
  while (at < text.end) {
    uint8_t bytes;
    const uint32_t c = code_point_at(at, bytes);
    if (!((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF))) break;
    at += bytes;
  }
  return at == text.at ? nullptr : at;
}

const char* match_deepseek_words(Span text) {
  const auto is_latin = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const Char first = char_at(text.flags, text.at);
  if (first.bytes == 1 && (first.flags & kPunctuation)) {
    const char* end = std::find_if_not(text.at + 1, text.end, is_latin);
    if (end != text.at + 1) return end;
  }
  const bool may_lead = !(first.flags & (kLetter | kPunctuation)) && !is_newline(text.at);
  if (may_lead) {
    const char* word = text.at + first.bytes;
    if (const char* end = run_of(kLetter | kMark, {text.flags, word, text.end}); end != word) return end;
  }
  if (const char* end = run_of(kLetter | kMark, text); end != text.at) return end;
  const auto others = [](Span rest) { return run_of(kPunctuation, rest); };
  if (const char* end = after_optional_space(text, others)) return run_of_newlines({text.flags, end, text.end});
  return white_space(text, Newlines::separate);
}

}  // namespace fulgur

// One function per regular expression of the published pre-tokenizers: where the match that starts at `at` ends, or
// nullptr if none does. The text is valid UTF-8 and at < end.
#pragma once
#include "text/unicode.h"

namespace fulgur {

struct Span {
  const CharFlags* flags;
  const char *at, *end;
};

const char* match_gpt2(Span text);
const char* match_cl100k(Span text, int max_digits);
const char* match_o200k(Span text);
const char* match_deepseek_digits(Span text);
const char* match_deepseek_east_asian(Span text);
const char* match_deepseek_words(Span text);

}  // namespace fulgur

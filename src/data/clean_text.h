// The one form in which training texts and evaluation texts are compared and tokenised: valid UTF-8 in NFC, lines that
// end with \n, no control characters, no blank lines at the ends.
#pragma once
#include <string>
#include <string_view>

namespace fulgur {

// What made a document drop out, as reports name it; nullptr: nothing did.
using Rule = const char*;

struct CleanText {
  std::string text;
  Rule dropped = nullptr;  // then text is empty: "binary", "encoding" or "empty"
};

// Repaired: UTF-16 (by its mark, or by where its zero bytes lie), Windows-1252 (nothing in it is UTF-8 beyond ASCII),
// characters cut at the ends, at most one broken character in 1,000. Dropped: other bytes that are no UTF-8; more than
// 1 % control characters. What it has given it gives again unchanged.
CleanText clean_text(std::string_view bytes);

}  // namespace fulgur

// Pre-tokenizers and Unicode: each expression's rules by hand, every scanner against ICU's regular expressions.
#include "text/pre_tokenizer.h"

#include <gtest/gtest.h>
#include <unicode/normalizer2.h>

#include <random>
#include <string>
#include <vector>

#include "text/unicode.h"

namespace fulgur::tests {
namespace {

std::vector<std::string> pieces(const PreTokenizer& rules, const std::string& text) {
  std::vector<std::string> found;
  Splitter splitter(rules, text);
  for (auto piece = splitter.next(); !piece.empty(); piece = splitter.next()) found.emplace_back(piece);
  return found;
}

using Pieces = std::vector<std::string>;

TEST(PreTokenizer, o200k) {
  const PreTokenizer rules{SplitRule::o200k};
  EXPECT_EQ(pieces(rules, "camelCaseHTTPServer"), (Pieces{"camel", "Case", "HTTPServer"}));
  EXPECT_EQ(pieces(rules, "don't DON'T we'll'll he'\u017fx"),
            (Pieces{"don't", " DON'T", " we'll", "'ll", " he'\u017f", "x"}));
  EXPECT_EQ(pieces(rules, "12345 a1"), (Pieces{"123", "45", " a", "1"}));
  EXPECT_EQ(pieces(rules, "a  b \n\n c\t\n"), (Pieces{"a", " ", " b", " \n\n", " c", "\t\n"}));
  EXPECT_EQ(pieces(rules, "a   "), (Pieces{"a", "   "}));
  EXPECT_EQ(pieces(rules, "x //\r\n/y ;;"), (Pieces{"x", " //\r\n/", "y", " ;;"}));
  EXPECT_EQ(pieces(rules,
                   "\x1f\x1f"
                   "a\u00a0b"),
            (Pieces{"\x1f\x1f", "a", "\u00a0b"}));
  // a letter without case may be the lower part of a word, but upper case after it begins another
  EXPECT_EQ(pieces(rules, "\u4e2dAB\u4e2dc"), (Pieces{"\u4e2dAB\u4e2dc"}));
  EXPECT_EQ(pieces(rules, "\u4e2dAB"), (Pieces{"\u4e2d", "AB"}));
  // a mark is a word by itself before upper case, and leads lower case
  EXPECT_EQ(pieces(rules, "\u0301AB \u0301's \u0301a"), (Pieces{"\u0301", "AB", " \u0301's", " \u0301a"}));
}

TEST(PreTokenizer, gpt2) {
  const PreTokenizer rules{SplitRule::gpt2};
  EXPECT_EQ(pieces(rules, "don't DON'T 12345"), (Pieces{"don", "'t", " DON", "'", "T", " 12345"}));
  EXPECT_EQ(pieces(rules, "a \n\n b  "), (Pieces{"a", " \n\n", " b", "  "}));
}

TEST(PreTokenizer, cl100k_and_qwen) {
  EXPECT_EQ(pieces({SplitRule::cl100k}, "DON'T (x) 1234"), (Pieces{"DON", "'T", " (", "x", ")", " ", "123", "4"}));
  EXPECT_EQ(pieces({SplitRule::qwen}, "a12\n .\r\n\n b"), (Pieces{"a", "1", "2", "\n", " .\r\n\n", " b"}));
}

TEST(PreTokenizer, deepseek) {
  const PreTokenizer rules{SplitRule::deepseek_digits, SplitRule::deepseek_east_asian, SplitRule::deepseek_words};
  EXPECT_EQ(pieces(rules, "ab1234\u4f60\u597dx (y)"), (Pieces{"ab", "123", "4", "\u4f60\u597d", "x", " (", "y", ")"}));
  // what no alternative matches is a piece, up to the next match
  EXPECT_EQ(pieces(rules,
                   "\x01\x02"
                   "a\x01"),
            (Pieces{"\x01",
                    "\x02"
                    "a",
                    "\x01"}));
}

TEST(PreTokenizer, any_regular_expression) {
  const auto by = [](const char* pattern, Gaps gaps) { return PreTokenizer{SplitStep(pattern, gaps)}; };
  EXPECT_EQ(pieces(by("[a-z]+| ", Gaps::are_pieces), "ab CD e!"), (Pieces{"ab", " ", "CD", " ", "e", "!"}));
  EXPECT_EQ(pieces(by("[a-z]+| ", Gaps::vanish), "ab CD e!"), (Pieces{"ab", " ", " ", "e"}));
  EXPECT_EQ(pieces(by("x*", Gaps::are_pieces), "axxb\u00e9"), (Pieces{"a", "xx", "b", "\u00e9"}));
  EXPECT_EQ(pieces({SplitStep("[A-Z]", Gaps::are_pieces), SplitRule::qwen}, "abC12"), (Pieces{"ab", "C", "1", "2"}));
  EXPECT_EQ(pieces(by("x", Gaps::vanish), "abc"), Pieces{});
}

TEST(PreTokenizer, scanners_agree_with_icu) {
  const std::string parts[] = {"'s",     "'S",     "'l",     "'ll",    "'RE",        "'v",         "'\u017f", " ",
                               "\n",     "\r",     "\t",     "\u00a0", "\u0085",     "/",          "a",       "A",
                               "\u01c5", "\u02b0", "\u0301", "\u4e2d", "1",          "\u00bd",     "_",       "<",
                               "'",      "\x1f",   "\u304b", "\u30fb", "\u3099",     "\u3000",     "$",       "\u200d",
                               "\u0660", "\u0915", "\u093f", "\u1100", "\U0001f600", "\U0001d400", "\v",      "\u2028"};
  const SplitRule rules[] = {SplitRule::gpt2,          SplitRule::cl100k,          SplitRule::qwen,
                             SplitRule::o200k,         SplitRule::deepseek_digits, SplitRule::deepseek_east_asian,
                             SplitRule::deepseek_words};
  std::mt19937 random(9);
  for (const SplitRule rule : rules) {
    const PreTokenizer scanner{rule};
    const PreTokenizer icu{SplitStep::by_icu(std::string(scanner[0].pattern()), Gaps::are_pieces)};
    for (int round = 0; round < 5000; ++round) {
      std::string text;
      for (unsigned i = random() % 12; i > 0; --i) text += parts[random() % std::size(parts)];
      ASSERT_EQ(pieces(scanner, text), pieces(icu, text)) << scanner[0].pattern() << "\n"
                                                          << testing::PrintToString(text);
    }
  }
}

TEST(Unicode, only_what_must_change_is_copied) {
  std::string storage;
  const std::string plain = "na\u00efve \u4f60\u597d\n";
  EXPECT_EQ(cleaned(plain, Normalisation::nfc, storage).data(), plain.data());
  const std::string decomposed = "plain\ne\u0301\u0323\n\u1100\u1161\u11a8";
  EXPECT_EQ(cleaned(decomposed, Normalisation::nfc, storage), "plain\n\u1eb9\u0301\n\uac01");
  EXPECT_EQ(cleaned(decomposed, Normalisation::none, storage).data(), decomposed.data());
}

TEST(Unicode, every_character_is_normalised_as_icu_does) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  ASSERT_TRUE(U_SUCCESS(status));
  for (UChar32 c = 1; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    icu::UnicodeString before(u"a"), after;
    before.append(c);
    std::string text, wanted, storage;
    before.toUTF8String(text);
    nfc->normalize(before, status).toUTF8String(wanted);
    ASSERT_EQ(cleaned(text, Normalisation::nfc, storage), wanted) << c;
  }
}

}  // namespace
}  // namespace fulgur::tests

// Raw bytes to documents and clean text: what is repaired, what is dropped, languages, and files read in pieces.
#include "data/clean_text.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "data/documents.h"
#include "data/language.h"
#include "data/raw_documents.h"
#include "data/text_filters.h"
#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

TEST(CleanText, is_repaired) {
  const auto gives = [](const std::string& bytes, const std::string& text) {
    const CleanText clean = clean_text(bytes);
    EXPECT_EQ(clean.dropped, nullptr) << bytes;
    EXPECT_EQ(clean.text, text);
    EXPECT_EQ(clean_text(clean.text).text, text) << "it gives it again";
  };
  gives("plain text\n", "plain text");
  gives("\xEF\xBB\xBF\n \n  a\r\nb\rc\fd \n\n", "  a\nb\nc\nd");
  gives(
      "a\xC2\x85"
      "b\xE2\x80\xA8"
      "c",
      "a\nb\nc");
  gives("tab\there, zero\xEF\xBB\xBFwidth", "tab\there, zerowidth");
  gives("e\xCC\x81t\xC3\xA9", "\xC3\xA9t\xC3\xA9");                                             // NFC
  gives("a caf\xE9, \x93na\xEFve\x94", "a caf\xC3\xA9, \xE2\x80\x9Cna\xC3\xAFve\xE2\x80\x9D");  // Windows-1252
  gives("\x9D\xAD\xE4\xB8\xAD\xE6\x96\x87\xE6\x96", "\xE4\xB8\xAD\xE6\x96\x87");                // cut at both ends
  gives(std::string("\xFF\xFEh\0i\0", 6), "hi");
  gives(std::string("\xFE\xFF\0h\xD8\x3D\xDE\x00", 8), "h\xF0\x9F\x98\x80");
  gives(std::string("n\0o\0 \0m\0a\0r\0k\0\n", 15), "no mark");
  std::string chinese;
  for (int i = 0; i < 1500; ++i) chinese += "\xE4\xB8\xAD";
  gives(chinese + "\xE6\x96" + chinese, chinese + chinese);  // one broken character in 3,000
}

TEST(CleanText, is_dropped_by_rule) {
  const auto rule = [](const std::string& bytes) { return std::string(clean_text(bytes).dropped); };
  EXPECT_EQ(rule(""), "empty");
  EXPECT_EQ(rule(" \n\t\r\n"), "empty");
  EXPECT_EQ(rule("\x89PNG\r\n\x1A\n\x01\x02\x03 text"), "binary");
  EXPECT_EQ(rule("\xB2\xE2\xCA\xD4\xCE\xC4\xB1\xBE"), "encoding");           // GBK
  EXPECT_EQ(rule("\xE4\xB8\xAD and caf\xE9, which are two"), "encoding");    // two encodings
  EXPECT_EQ(rule("\xEF\xBF\xBD was lost \xEF\xBF\xBD before"), "encoding");  // by whoever wrote it
  EXPECT_EQ(rule("an undefined \x81 byte in a text in Windows-1252"), "encoding");
}

TEST(CleanText, of_any_bytes_is_a_fixed_point) {
  for (uint64_t trial = 0; trial < 2000; ++trial) {
    std::string bytes;
    const uint32_t length = philox(1, trial, 0)[0] % 60;
    for (uint32_t i = 0; i < length; ++i) {
      const PhiloxBlock draw = philox(2, trial, i);
      bytes += char(draw[1] % 4 ? "e\xCC\x81\r\n \xC3\xA9\xE4\xB8\xAD"[draw[0] % 12] : draw[0] % 256);
    }
    const CleanText once = clean_text(bytes);
    if (once.dropped) continue;
    const CleanText twice = clean_text(once.text);
    EXPECT_EQ(twice.dropped, nullptr);
    EXPECT_EQ(twice.text, once.text);
  }
}

TEST(Language, is_told_from_scripts_and_words) {
  EXPECT_EQ(guess_language("The cat was on the mat and it did not move."), Language::en);
  EXPECT_EQ(guess_language("Der Hund lief durch den dunklen Wald und suchte Knochen."), Language::latin);
  EXPECT_EQ(guess_language("\xE4\xB8\xAD\xE6\x96\x87\xE6\x96\x87\xE5\xAD\x97 abc"), Language::zh);
  EXPECT_EQ(guess_language("\xE6\x97\xA5\xE6\x9C\xAC\xE3\x81\xAE\xE3\x81\xAF"), Language::ja);
  EXPECT_EQ(guess_language("\xED\x95\x9C\xEA\xB5\xAD"), Language::ko);
  EXPECT_EQ(guess_language("\xD0\xBC\xD0\xB8\xD1\x80"), Language::cyrillic);
  EXPECT_EQ(guess_language("12 + 34"), Language::none);
}

std::vector<std::string> read_raw(const PrepareConfig& config, int64_t& units) {
  RawDocuments raw(config);
  std::vector<std::string> texts;
  units = 0;
  while (const std::optional<RawUnit> unit = raw.next()) {
    EXPECT_EQ(unit->number, units++);
    for (const RawDocument& d : unit->documents) {
      EXPECT_EQ(d.number, int64_t(texts.size()));
      texts.emplace_back(unit->text(d));
    }
  }
  return texts;
}

// Separators and line ends at every place around the border of two pieces of the file.
TEST(RawDocuments, are_those_of_read_documents) {
  const Scratch scratch;
  PrepareConfig config;
  config.unit_bytes = 300000, config.max_bytes = 2 << 20;
  config.sources = {{"s", 1, {(scratch / "a.txt").string()}}};
  for (int shift = 0; shift < 18; ++shift) {
    const std::string head(size_t((1 << 20) - 16 + shift), 'x');
    for (const std::string middle :
         {"\n<|endoftext|>\n", "\n<|endoftext|>\r\nno", " <|endoftext|>\n", "\n<|endoftext|>"}) {
      spill(scratch / "a.txt", head + middle);
      int64_t units = 0;
      EXPECT_EQ(read_raw(config, units), read_documents(scratch / "a.txt")) << shift << middle;
    }
  }
}

TEST(RawDocuments, longer_ones_are_cut_and_units_end_between_documents) {
  const Scratch scratch;
  PrepareConfig config;
  config.unit_bytes = 100, config.max_bytes = 50;
  config.sources = {{"s", 1, {(scratch / "a.jsonl").string()}}};
  std::string lines;
  for (int i = 1; i < 30; ++i) lines += std::string(size_t(7 * i), char('a' + i % 26)) + "\n \n";
  spill(scratch / "a.jsonl", lines);
  int64_t units = 0;
  const std::vector<std::string> texts = read_raw(config, units);
  ASSERT_EQ(texts.size(), 29u);
  EXPECT_GT(units, 5);
  for (size_t i = 0; i < 29; ++i) EXPECT_EQ(texts[i].size(), std::min<size_t>(7 * (i + 1) + 1, 51));
}

TEST(RawDocuments, json_lines_may_hold_any_bytes) {
  EXPECT_EQ(text_of_json_line("{\"text\": \"caf\xE9 \xF0\x9F\x98\x80 \\u00e9\"}", "f", 1),
            "caf\xE9 \xF0\x9F\x98\x80 \xC3\xA9");
  expect_error(ErrorKind::corrupt_file, {"f:7", "`text`"}, [] { text_of_json_line("{\"txt\": \"a\"}", "f", 7); });
  expect_error(ErrorKind::corrupt_file, {"f:8", "object"}, [] { text_of_json_line("{\"text\": ", "f", 8); });
}

TEST(TextFilters, thresholds_are_exact) {
  FilterLimits limits;
  limits.min_words = 4, limits.min_word_length = 0, limits.max_word_length = 100;
  limits.max_top_ngram = {}, limits.max_repeated_ngrams = {0.5};
  TextFilters filters(limits);
  const auto rule = [&](const std::string& text) {
    const Rule found = filters.rule_against(text, Language::en);
    return std::string(found ? found : "");
  };
  EXPECT_EQ(rule("one two three"), "short");
  EXPECT_EQ(rule("one two three four"), "");
  EXPECT_EQ(rule("one two three 4 5"), "alphabetic");
  EXPECT_EQ(rule("one two three four 5"), "");
  const std::string quoted = "\xE2\x80\x9C\xE4\xB8\xAD\xE2\x80\x9D\xEF\xBC\x8C\xE6\x96\x87\xE3\x80\x82";
  EXPECT_EQ(rule("one two three four five six " + quoted), "") << "Chinese punctuation is no word without letters";
  EXPECT_EQ(rule("aa\nbb\ncc\ndd\naa\nbb\ncc"), "repeated lines");
  const std::string five = "aa bb cc dd ee ", other = "ff gg hh ii jj ";
  EXPECT_EQ(rule(five + other + five), "") << "a third";
  EXPECT_EQ(rule(five + five), "") << "a half";
  EXPECT_EQ(rule(five + five + five), "repeated n-grams") << "two thirds";
}

}  // namespace
}  // namespace fulgur::tests

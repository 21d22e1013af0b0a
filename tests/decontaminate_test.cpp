// Decontamination: a window is found wherever one byte more or less would not be, as a search by brute force finds it.
#include "data/decontaminate.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace fulgur::tests {
namespace {

constexpr size_t kBytes = size_t(Windows::kBytes);

std::string random_text(std::mt19937& random, size_t bytes, int letters) {
  std::string text(bytes, ' ');
  for (char& c : text) c = char('a' + int(random() % unsigned(letters)));
  return text;
}

bool occurs_by_force(const std::vector<std::string>& evaluation, const std::string& text) {
  std::set<std::string> windows;
  for (const std::string& document : evaluation)
    for (size_t at = 0; at + kBytes <= document.size(); ++at) windows.insert(document.substr(at, kBytes));
  for (size_t at = 0; at + kBytes <= text.size(); ++at)
    if (windows.count(text.substr(at, kBytes))) return true;
  return false;
}

Windows windows_of(const std::vector<std::string>& evaluation) {
  Windows windows;
  for (const std::string& document : evaluation) windows.add(document);
  windows.finish();
  return windows;
}

TEST(Windows, every_offset_and_length) {
  std::mt19937 random(1);
  const std::string evaluation = random_text(random, 300, 26);
  const Windows windows = windows_of({evaluation});
  EXPECT_EQ(windows.size(), 101);
  for (size_t begin = 0; begin + 199 <= evaluation.size(); ++begin) {
    const std::string before = random_text(random, 20 + begin % 7, 26) + "#";
    EXPECT_FALSE(windows.occurs_in(before + evaluation.substr(begin, 199) + "#tail")) << begin;
    if (begin + 200 > evaluation.size()) break;
    EXPECT_TRUE(windows.occurs_in(before + evaluation.substr(begin, 200) + "#tail")) << begin;
    EXPECT_TRUE(windows.occurs_in(evaluation.substr(begin, 200))) << begin;
    EXPECT_FALSE(windows.occurs_in(evaluation.substr(begin, 199))) << begin;
  }
}

// Few letters and repeated pieces, so that blocks recur in other surroundings.
TEST(Windows, as_by_brute_force) {
  std::mt19937 random(2);
  int found = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> pieces, evaluation(3);
    for (int i = 0; i < 4; ++i) pieces.push_back(random_text(random, 20 + random() % 120, 1 + i % 2));
    const auto assembled = [&](unsigned parts) {
      std::string text;
      for (unsigned i = 0; i < parts; ++i) text += pieces[random() % 4];
      return text;
    };
    for (std::string& document : evaluation) document = std::string(200, '.') + assembled(1 + random() % 6);
    const std::string text = assembled(1 + random() % 8);
    const bool want = occurs_by_force(evaluation, text);
    EXPECT_EQ(windows_of(evaluation).occurs_in(text), want) << round;
    found += want;
  }
  EXPECT_GT(found, 30);
  EXPECT_LT(found, 270);
}

TEST(Windows, no_window_reaches_over_the_border_of_documents) {
  std::mt19937 random(3);
  const std::string a = random_text(random, 250, 26), b = random_text(random, 250, 26);
  const Windows windows = windows_of({a, b});
  EXPECT_FALSE(windows.occurs_in("#" + a.substr(100) + b.substr(0, 150) + "#"));
  EXPECT_TRUE(windows.occurs_in("#" + a.substr(50) + b.substr(0, 150)));
}

// Thousands of equal blocks, of which no window comes: the entries are one.
TEST(Windows, lines_of_dashes) {
  std::string evaluation;
  for (int i = 0; i < 4000; ++i) evaluation += std::string(199, '-') + "\n";
  const Windows windows = windows_of({evaluation.substr(0, 199), evaluation});
  std::string text;
  for (int i = 0; i < 4000; ++i) text += std::string(195, '-') + "=";
  EXPECT_FALSE(windows.occurs_in(text));
  EXPECT_TRUE(windows.occurs_in(text + std::string(199, '-') + "\n"));
}

TEST(Windows, equal_blocks_in_different_surroundings) {
  std::mt19937 random(4);
  const std::string block = random_text(random, 185, 26);
  std::vector<std::string> evaluation;
  for (int i = 0; i < 8; ++i) evaluation.push_back(random_text(random, 16, 26) + block + random_text(random, 16, 26));
  const Windows windows = windows_of(evaluation);
  for (const std::string& document : evaluation) {
    EXPECT_TRUE(windows.occurs_in("#" + document.substr(1, 200) + "#"));
    EXPECT_TRUE(windows.occurs_in("#" + document.substr(16, 200) + "#"));
    EXPECT_FALSE(windows.occurs_in("#" + document.substr(2, 199) + "#"));
  }
}

TEST(Windows, any_bytes) {
  std::string evaluation(260, '\0');
  for (size_t i = 0; i < evaluation.size(); ++i) evaluation[i] = char(i % 3 ? 0 : i);
  const Windows windows = windows_of({evaluation});
  EXPECT_TRUE(windows.occurs_in(std::string(7, '\0') + evaluation.substr(30, 200)));
  EXPECT_FALSE(windows.occurs_in(std::string(400, '\0')));
}

TEST(Windows, a_short_text_is_found_as_whole_lines) {
  const std::string question = "How many apples does Ann have if she buys 3 and then eats 2 of them?";
  const std::string two_lines = "The first of two lines of a question that is short\nand the second one";
  const Windows windows = windows_of({"  " + question + "\n", two_lines, "Yes", " \n"});
  EXPECT_EQ(windows.size(), 0);
  EXPECT_TRUE(windows.occurs_in("Once upon a time.\n  " + question + " \nAnd so on."));
  EXPECT_TRUE(windows.occurs_in(question));
  EXPECT_TRUE(windows.occurs_in("Before.\n" + two_lines + "\r\nAfter."));
  EXPECT_FALSE(windows.occurs_in("She asked: " + question));
  EXPECT_FALSE(windows.occurs_in(question + " One."));
  EXPECT_FALSE(windows.occurs_in(two_lines + " and more"));
  EXPECT_TRUE(windows.occurs_in("\nYes\n"));
  EXPECT_FALSE(windows.occurs_in("Is it?\nYes\n"));
  EXPECT_FALSE(windows.occurs_in(""));
  EXPECT_FALSE(windows_of({}).occurs_in(question));
}

}  // namespace
}  // namespace fulgur::tests

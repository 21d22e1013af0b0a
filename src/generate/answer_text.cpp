#include "generate/answer_text.h"

#include <algorithm>
#include <utility>

namespace fulgur {
namespace {

// How much of the text's end may be the beginning of `stop`.
size_t begun(const std::string& text, const std::string& stop) {
  size_t length = std::min(text.size(), stop.size() - 1);
  while (length > 0 && text.compare(text.size() - length, length, stop, 0, length) != 0) --length;
  return length;
}

}  // namespace

AnswerText::AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stop_strings)
    : tokenizer_(tokenizer), decoder_(tokenizer), stop_strings_(std::move(stop_strings)) {
  std::erase(stop_strings_, "");
}

std::string AnswerText::feed(int32_t token) {
  // A vocabulary may be narrower than the model's head.
  return show(token < tokenizer_.vocab_size() ? decoder_.feed(token) : "\xEF\xBF\xBD", false);
}

std::string AnswerText::flush() { return show(decoder_.flush(), true); }

std::string AnswerText::show(const std::string& more, bool is_all) {
  if (stopped_) return {};
  held_ += more;
  size_t end = held_.size(), hold = 0;
  for (const std::string& stop : stop_strings_) {
    const size_t at = held_.find(stop);
    if (at != held_.npos) stopped_ = true, end = std::min(end, at);
    if (!is_all) hold = std::max(hold, begun(held_, stop));
  }
  if (stopped_) return std::exchange(held_, {}).substr(0, end);
  const std::string shown = held_.substr(0, end - hold);
  held_.erase(0, shown.size());
  return shown;
}

}  // namespace fulgur

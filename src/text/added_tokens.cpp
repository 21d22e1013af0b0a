// A sorted list instead of an automaton: added tokens start with one rare byte, so almost every position is skipped by
// looking for that byte alone.
#include "text/added_tokens.h"

#include <algorithm>

namespace fulgur {

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (const AddedToken& token : tokens_) {
    if (first_bytes_.empty() || first_bytes_.back() != token.content[0]) first_bytes_ += token.content[0];
  }
}

AddedTokenFinder::Found AddedTokenFinder::find(std::string_view text, size_t from) const {
  if (tokens_.empty()) return {nullptr, text.size()};
  for (;; ++from) {
    from = first_bytes_.size() == 1 ? text.find(first_bytes_[0], from) : text.find_first_of(first_bytes_, from);
    if (from == text.npos) return {nullptr, text.size()};
    if (const AddedToken* token = longest_at(text.substr(from))) return {token, from};
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view rest) const {
  auto first = tokens_.begin(), last = tokens_.end();  // those that agree with `rest` in all bytes so far
  const AddedToken* longest = nullptr;
  for (size_t i = 0; i < rest.size() && first != last; ++i) {
    const auto before = [i](const AddedToken& token, char c) { return uint8_t(token.content[i]) < uint8_t(c); };
    const auto after = [i](char c, const AddedToken& token) { return uint8_t(c) < uint8_t(token.content[i]); };
    first = std::lower_bound(first, last, rest[i], before);
    last = std::upper_bound(first, last, rest[i], after);
    if (first == last) break;
    if (first->content.size() == i + 1) longest = &*first++;
  }
  return longest;
}

}  // namespace fulgur

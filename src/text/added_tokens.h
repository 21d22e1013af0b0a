// Finds added tokens in a text: leftmost first, the longest of those that start there.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace fulgur {

class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  struct Found {
    const AddedToken* token;  // nullptr if there is none
    size_t begin;
  };
  Found find(std::string_view text, size_t from) const;

 private:
  const AddedToken* longest_at(std::string_view rest) const;

  std::vector<AddedToken> tokens_;  // sorted by content
  std::string first_bytes_;
};

}  // namespace fulgur

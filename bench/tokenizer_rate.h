// How fast text becomes ids: documents through one tokenizer, one thread, one cache of words, as training corpora are
// read.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace fulgur::bench {

// The text cut at line ends into documents of at least `bytes`; the last may be shorter.
std::vector<std::string_view> cut_at_lines(std::string_view text, size_t bytes);

struct TokenizerRate {
  int64_t bytes = 0, tokens = 0;
  double seconds = 0;  // of the core's time, in the fastest pass over all documents: others who use it do not count
};

// `passes` passes after one that warms up.
TokenizerRate tokenizer_rate(const Tokenizer& tokenizer, const std::vector<std::string_view>& documents,
                             int64_t passes);

}  // namespace fulgur::bench

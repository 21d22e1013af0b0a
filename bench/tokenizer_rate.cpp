#include "bench/tokenizer_rate.h"

#include <algorithm>
#include <ctime>

#include "text/word_cache.h"

namespace fulgur::bench {
namespace {

double cpu_seconds() { return double(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace

std::vector<std::string_view> cut_at_lines(std::string_view text, size_t bytes) {
  std::vector<std::string_view> documents;
  while (!text.empty()) {
    const size_t newline = text.size() > bytes ? text.find('\n', bytes - 1) : text.npos;
    const size_t end = newline == text.npos ? text.size() : newline + 1;
    documents.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return documents;
}

TokenizerRate tokenizer_rate(const Tokenizer& tokenizer, const std::vector<std::string_view>& documents,
                             int64_t passes) {
  TokenizerRate rate;
  for (const std::string_view document : documents) rate.bytes += int64_t(document.size());
  std::vector<int32_t> ids;
  for (int64_t pass = 0; pass <= passes; ++pass) {
    WordCache cache;
    rate.tokens = 0;
    const double start = cpu_seconds();
    for (const std::string_view document : documents) {
      ids.clear();
      tokenizer.encode(document, SpecialTokens::as_text, cache, ids);
      rate.tokens += int64_t(ids.size());
    }
    const double seconds = cpu_seconds() - start;
    rate.seconds = pass <= 1 ? seconds : std::min(rate.seconds, seconds);
  }
  return rate;
}

}  // namespace fulgur::bench

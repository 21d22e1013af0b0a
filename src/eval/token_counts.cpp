#include "eval/token_counts.h"

#include <algorithm>
#include <atomic>

#include "base/for_each_or_throw.h"

namespace fulgur {
namespace {

int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return (uint8_t(byte) & 0xC0) != 0x80; });
}

}  // namespace

void TokenCounts::add(const TokenCounts& other) {
  documents += other.documents, bytes += other.bytes, characters += other.characters;
  tokens.resize(std::max(tokens.size(), other.tokens.size()));
  for (size_t i = 0; i < other.tokens.size(); ++i) tokens[i] += other.tokens[i];
}

TokenCounter::TokenCounter(std::vector<Tokenizer> tokenizers, int threads)
    : tokenizers_(std::move(tokenizers)),
      threads_(threads),
      caches_(size_t(threads), std::vector<WordCache>(tokenizers_.size())) {}

std::vector<TokenCounts> TokenCounter::count(std::span<const std::string> texts) {
  std::vector<TokenCounts> counts(texts.size());
  std::atomic<size_t> next = 0;
  for_each_or_throw(threads_, int64_t(caches_.size()), [&](int64_t thread) {
    std::vector<int32_t> ids;
    for (size_t i = next++; i < texts.size(); i = next++) {
      counts[i] = {
          .documents = 1, .bytes = int64_t(texts[i].size()), .characters = code_points(texts[i]), .tokens = {}};
      for (size_t t = 0; t < tokenizers_.size(); ++t) {
        ids.clear();
        tokenizers_[t].encode(texts[i], SpecialTokens::as_text, caches_[size_t(thread)][t], ids);
        counts[i].tokens.push_back(int64_t(ids.size()));
      }
    }
  });
  return counts;
}

}  // namespace fulgur

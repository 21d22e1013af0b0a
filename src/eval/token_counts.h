// TokenCounts: how many tokens each of several tokenizers makes of the same texts.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "text/tokenizer.h"
#include "text/word_cache.h"

namespace fulgur {

struct TokenCounts {
  int64_t documents = 0, bytes = 0, characters = 0;  // code points
  std::vector<int64_t> tokens;                       // of each tokenizer

  double bytes_per_token(size_t tokenizer) const { return double(bytes) / double(tokens[tokenizer]); }
  double tokens_per_character(size_t tokenizer) const { return double(tokens[tokenizer]) / double(characters); }
  void add(const TokenCounts& other);
};

class TokenCounter {
 public:
  TokenCounter(std::vector<Tokenizer> tokenizers, int threads);

  // Of each text; special tokens in it are text.
  std::vector<TokenCounts> count(std::span<const std::string> texts);

 private:
  std::vector<Tokenizer> tokenizers_;
  Threads threads_;
  std::vector<std::vector<WordCache>> caches_;  // of each thread, of each tokenizer
};

}  // namespace fulgur

// The index of prepared data (docs/formats.md): what its shards hold, where that came from, and a fingerprint of it
// all.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fulgur {

inline constexpr const char* kTokenIndexFile = "index.json";
inline constexpr const char* kTokenFormat = "fulgur tokens 1";

struct ShardEntry {
  std::string file;
  int64_t documents = 0, tokens = 0, bytes = 0;  // bytes: UTF-8 of the documents' text
  std::string digest;                            // xxh3 of the file
};

struct TokenInput {
  std::string source, path, digest;
  int64_t bytes = 0;  // of the file
};

struct TokenSource {
  std::string name;
  double weight = 1;
  std::vector<ShardEntry> shards;

  int64_t documents() const;
  int64_t tokens() const;
  int64_t bytes() const;
};

struct TokenIndex {
  int32_t vocab_size = 0;
  std::string tokenizer_digest;
  int32_t begin_of_sentence = 0, end_of_document = 0;
  std::vector<TokenInput> inputs;
  std::vector<TokenSource> sources;

  // xxh3 of the tokenizer's fields and every shard's digest, in order.
  std::string fingerprint() const;
};

// Throws not_found where the folder has no index, corrupt_file naming the field and what was expected.
TokenIndex read_token_index(const std::filesystem::path& folder);

// Last of all files: a folder without an index is not prepared data.
void write_token_index(const std::filesystem::path& folder, const TokenIndex& index);

// A name that may begin a shard's file: letters, digits, `_`, `-` and `.`, the first a letter or digit.
bool is_source_name(const std::string& name);

}  // namespace fulgur

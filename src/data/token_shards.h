// TokenShards: prepared data (docs/formats.md), a folder of documents in training tokens, mapped into memory; and what
// writes it.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/token_index.h"
#include "files/safetensors.h"

namespace fulgur {

// Documents of one shard.
struct ShardDocuments {
  std::vector<int32_t> tokens;                 // each <beginning_of_sentence> text <end_of_document>, laid end to end
  std::vector<int64_t> begin{0};               // document i is tokens [begin[i], begin[i + 1])
  std::vector<int64_t> bytes;                  // UTF-8 bytes of the text
  std::vector<std::array<int64_t, 2>> origin;  // number in `inputs`, number of the document in that input
  std::vector<int32_t> label;                  // of quality; 0: none
};

// folder/SOURCE-NNNNN.safetensors.
ShardEntry write_token_shard(const std::filesystem::path& folder, const std::string& source, int64_t number,
                             const ShardDocuments& documents);

class TokenShards {
 public:
  // The documents of one source, in the inputs' order. Spans live as long as the TokenShards.
  class Source {
   public:
    const std::string& name() const { return entry_->name; }
    double weight() const { return entry_->weight; }
    int64_t documents() const { return first_.back(); }
    int64_t tokens() const { return entry_->tokens(); }
    std::span<const int32_t> document(int64_t i) const;
    int64_t bytes(int64_t i) const;
    int32_t label(int64_t i) const;
    std::array<int64_t, 2> origin(int64_t i) const;

   private:
    friend class TokenShards;
    struct Shard {
      Safetensors file;
      std::span<const int32_t> tokens, label;
      std::span<const int64_t> begin, bytes, origin;
    };
    static Shard open_shard(const std::filesystem::path& folder, const ShardEntry& entry);
    const Shard& shard_of(int64_t& document) const;  // leaves the document's number in the shard

    const TokenSource* entry_ = nullptr;
    std::vector<Shard> shards_;
    std::vector<int64_t> first_{0};  // document of each shard, and the count
  };

  // Judges the index, and each shard's counts and document borders against it. Throws not_found, corrupt_file naming
  // the file and what was expected.
  static TokenShards open(const std::filesystem::path& folder);

  const TokenIndex& index() const { return *index_; }
  const std::vector<Source>& sources() const { return sources_; }
  const Source& source(const std::string& name) const;  // throws invalid_input naming those there are

  // Reads every byte: the digests, tokens within the vocabulary, each document framed. Throws corrupt_file.
  void check() const;

 private:
  std::filesystem::path folder_;
  std::unique_ptr<TokenIndex> index_;  // stays where sources point to
  std::vector<Source> sources_;
};

}  // namespace fulgur

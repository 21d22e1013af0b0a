// Prepared data made by hand: shards of given documents under an index, for the tiny tokenizer.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/random.h"
#include "data/corpus.h"
#include "data/token_shards.h"

namespace fulgur::tests {

// Each vector is a shard.
struct SourceToPrepare {
  std::string name;
  double weight;
  std::vector<std::vector<std::vector<int32_t>>> shards;
};

inline std::string tiny_tokenizer() { return std::string(FULGUR_SOURCE) + "/data/tiny/tokenizer"; }

inline void prepare(const std::filesystem::path& folder, const std::vector<SourceToPrepare>& sources) {
  const RunCorpus tokenizer = read_run_corpus(tiny_tokenizer(), {}, {});
  TokenIndex index{.vocab_size = tokenizer.vocab_size,
                   .tokenizer_digest = tokenizer.tokenizer_digest,
                   .begin_of_sentence = tokenizer.begin_of_sentence,
                   .end_of_document = tokenizer.end_of_document,
                   .inputs = {{"any", "by hand", "0", 0}},
                   .sources = {}};
  std::filesystem::create_directories(folder);
  for (const SourceToPrepare& source : sources) {
    index.sources.push_back({source.name, source.weight, {}});
    for (const auto& documents : source.shards) {
      ShardDocuments shard;
      for (const std::vector<int32_t>& document : documents) {
        shard.tokens.insert(shard.tokens.end(), document.begin(), document.end());
        shard.begin.push_back(int64_t(shard.tokens.size()));
        shard.bytes.push_back(int64_t(document.size())), shard.label.push_back(0);
        shard.origin.push_back({0, int64_t(shard.label.size()) - 1});
      }
      std::vector<ShardEntry>& shards = index.sources.back().shards;
      shards.push_back(write_token_shard(folder, source.name, int64_t(shards.size()), shard));
    }
  }
  write_token_index(folder, index);
}

// The documents of a text file as training tokens.
inline std::vector<std::vector<int32_t>> tokenized(const std::filesystem::path& file) {
  const RunCorpus corpus = read_run_corpus(tiny_tokenizer(), {{file.string()}}, {});
  std::vector<std::vector<int32_t>> documents;
  for (int64_t d = 0; d < corpus.training.documents.count(); ++d) {
    const std::span<const int32_t> document = corpus.training.documents.document(d);
    documents.emplace_back(document.begin(), document.end());
  }
  return documents;
}

// A document of tokens without sense between its frame's.
inline std::vector<int32_t> noise(std::vector<int32_t> document, uint64_t seed) {
  for (size_t i = 1; i + 1 < document.size(); ++i) document[i] = int32_t(philox(seed, i, 9)[0] % 500);
  return document;
}

}  // namespace fulgur::tests

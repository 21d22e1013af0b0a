// The text of a run: its files read, tokenised and framed as documents, or prepared data opened.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/mixed_rows.h"
#include "data/token_shards.h"

namespace fulgur {

struct CorpusFile {
  std::string path;   // a file, or for training a PREPARED folder
  int64_t times = 1;  // how often the corpus holds its documents
};

// Documents as <beginning_of_sentence> text <end_of_document>. Text that names a special token does not become it. A
// conversation's text is what the chat template beside the tokenizer makes of its messages, whose special tokens are
// tokens; where it begins with <beginning_of_sentence> that is the document's. All tokens are predicted.
struct Corpus {
  // One file's share, its documents after those of the files before.
  struct Part {
    std::string path;
    int64_t end = 0;    // documents of all files up to here
    int64_t bytes = 0;  // of its own documents
  };
  TokenizedDocuments documents;
  int64_t bytes = 0;  // UTF-8 bytes of the documents' text
  std::vector<Part> parts = {};
};

struct RunCorpus {
  Corpus training, validation;  // of files
  std::vector<std::shared_ptr<const TokenShards>> prepared;
  int32_t vocab_size;  // of the tokenizer
  int32_t begin_of_sentence, end_of_sentence, end_of_document;
  std::string tokenizer_digest, data_digest, validation_digest;
};

// tokenizer: a folder or a tokenizer.json. Throws invalid_input when it lacks one of the three tokens or is not the one
// that data was prepared with, and what reading files, tokenizers and chat templates throws.
RunCorpus read_run_corpus(const std::filesystem::path& tokenizer, const std::vector<CorpusFile>& training,
                          const std::vector<CorpusFile>& validation);

inline constexpr const char* kFilesSource = "files";

// The sources of prepared data by their names, and all files together as kFilesSource. The corpus outlives them. Throws
// invalid_input where two have one name.
std::vector<TrainingSource> training_sources(const RunCorpus& corpus);

}  // namespace fulgur

#include "data/corpus.h"

#include "base/error.h"
#include "data/documents.h"
#include "files/digest.h"
#include "text/tokenizer.h"
#include "text/word_cache.h"

namespace fulgur {
namespace {

int32_t required(const Tokenizer& tokenizer, const std::string& token, const std::filesystem::path& path) {
  const std::optional<int32_t> id = tokenizer.id_of(token);
  if (!id)
    fail(ErrorKind::invalid_input,
         path.string() + ": the tokenizer has no token " + token + ", which frames documents");
  return *id;
}

Corpus read_corpus(const Tokenizer& tokenizer, const RunCorpus& frame, const std::vector<CorpusFile>& files) {
  Corpus corpus;
  WordCache cache;
  for (const CorpusFile& file : files) {
    const std::vector<std::string> documents = read_documents(file.path);
    if (documents.empty()) fail(ErrorKind::invalid_input, file.path + ": holds no text");
    const int64_t before = corpus.bytes;
    std::vector<int32_t> ids;
    for (const std::string& text : documents) {
      ids.assign(1, frame.begin_of_sentence);
      tokenizer.encode(text, SpecialTokens::as_text, cache, ids);
      ids.push_back(frame.end_of_document);
      for (int64_t i = 0; i < file.times; ++i) corpus.documents.add(ids), corpus.bytes += int64_t(text.size());
    }
    corpus.parts.push_back({file.path, corpus.documents.count(), corpus.bytes - before});
  }
  return corpus;
}

std::string digest_of_documents(const TokenizedDocuments& documents) {
  return digest_of(std::as_bytes(std::span(documents.tokens))) + digest_of(std::as_bytes(std::span(documents.begin)));
}

}  // namespace

RunCorpus read_run_corpus(const std::filesystem::path& path, const std::vector<CorpusFile>& training,
                          const std::vector<CorpusFile>& validation) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  RunCorpus run;
  run.vocab_size = tokenizer.vocab_size();
  run.begin_of_sentence = required(tokenizer, "<beginning_of_sentence>", path);
  run.end_of_sentence = required(tokenizer, "<end_of_sentence>", path);
  run.end_of_document = required(tokenizer, "<end_of_document>", path);
  run.training = read_corpus(tokenizer, run, training), run.validation = read_corpus(tokenizer, run, validation);
  run.tokenizer_digest = std::to_string(tokenizer.digest());
  run.data_digest = digest_of_documents(run.training.documents);
  run.validation_digest = digest_of_documents(run.validation.documents);
  return run;
}

}  // namespace fulgur

#include "data/corpus.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.h"
#include "data/document_stream.h"
#include "files/digest.h"
#include "text/chat_template.h"
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

// Documents of files as a run reads them; a conversation becomes what the chat template beside the tokenizer writes.
class FramedDocuments {
 public:
  FramedDocuments(const Tokenizer& tokenizer, const RunCorpus& frame, std::filesystem::path path)
      : tokenizer_(tokenizer), frame_(frame), path_(std::move(path)) {}

  // Leaves the document's tokens in ids. Returns the UTF-8 bytes of its text.
  int64_t tokens_of(const Document& document, const std::string& where, std::vector<int32_t>& ids) {
    const bool is_text = document.messages.empty();
    const std::string text = is_text ? document.text : rendered(document.messages, where);
    ids.assign(1, frame_.begin_of_sentence);
    tokenizer_.encode(text, is_text ? SpecialTokens::as_text : SpecialTokens::as_ids, cache_, ids);
    if (!is_text && ids.size() > 1 && ids[1] == frame_.begin_of_sentence) ids.erase(ids.begin());
    ids.push_back(frame_.end_of_document);
    return int64_t(text.size());
  }

 private:
  std::string rendered(const std::string& line, const std::string& where) {
    const nlohmann::ordered_json object = nlohmann::ordered_json::parse(line);
    const auto tools = object.find("tools");
    try {
      if (!template_) template_ = ChatTemplate::load(is_directory(path_) ? path_ : path_.parent_path());
      return template_->render({.messages = object.at("messages"),
                                .tools = tools == object.end() ? nlohmann::ordered_json() : *tools,
                                .variables = nullptr,
                                .add_generation_prompt = false});
    } catch (const Error& error) {
      fail(error.kind(), where + ": " + error.what());
    }
  }

  const Tokenizer& tokenizer_;
  const RunCorpus& frame_;
  const std::filesystem::path path_;
  std::optional<ChatTemplate> template_;
  WordCache cache_;
};

Corpus read_corpus(const Tokenizer& tokenizer, const RunCorpus& frame, const std::filesystem::path& path,
                   const std::vector<CorpusFile>& files) {
  Corpus corpus;
  FramedDocuments framed(tokenizer, frame, path);
  std::vector<int32_t> ids;
  for (const CorpusFile& file : files) {
    DocumentStream stream(file.path, std::numeric_limits<size_t>::max(), Conversations::given);
    const int64_t before = corpus.bytes, documents = corpus.documents.count();
    for (Document document; stream.next(document);) {
      const int64_t bytes = framed.tokens_of(document, stream.where(), ids);
      for (int64_t i = 0; i < file.times; ++i) corpus.documents.add(ids), corpus.bytes += bytes;
    }
    if (corpus.documents.count() == documents) fail(ErrorKind::invalid_input, file.path + ": holds no text");
    corpus.parts.push_back({file.path, corpus.documents.count(), corpus.bytes - before});
  }
  return corpus;
}

std::string digest_of_documents(const TokenizedDocuments& documents) {
  return digest_of(std::as_bytes(std::span(documents.tokens))) + digest_of(std::as_bytes(std::span(documents.begin)));
}

std::shared_ptr<const TokenShards> open_prepared(const CorpusFile& folder, const RunCorpus& run) {
  const auto refuse = [&](const std::string& what) { fail(ErrorKind::invalid_input, folder.path + ": " + what); };
  if (folder.times != 1) refuse("prepared data has no weight of its own; data.weights gives each of its sources one");
  auto shards = std::make_shared<const TokenShards>(TokenShards::open(folder.path));
  const TokenIndex& index = shards->index();
  if (index.tokenizer_digest != run.tokenizer_digest)
    refuse("was prepared with the tokenizer " + index.tokenizer_digest + ", data.tokenizer is " + run.tokenizer_digest +
           ": prepare it with this one");
  if (index.vocab_size != run.vocab_size || index.begin_of_sentence != run.begin_of_sentence ||
      index.end_of_document != run.end_of_document)
    refuse("its vocabulary's size or framing tokens are not those of data.tokenizer: prepare it again");
  return shards;
}

// Of what decides the rows: the files' documents, and the shards and weights of what was prepared.
std::string digest_of_training(const RunCorpus& run) {
  std::string digest = run.training.documents.count() > 0 ? digest_of_documents(run.training.documents) : "";
  for (const auto& prepared : run.prepared) {
    std::string text = prepared->index().fingerprint();
    for (const TokenShards::Source& source : prepared->sources())
      text += " " + source.name() + " " + nlohmann::json(source.weight()).dump();
    digest += digest_of(text);
  }
  return digest;
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
  run.tokenizer_digest = std::to_string(tokenizer.digest());
  std::vector<CorpusFile> files;
  for (const CorpusFile& entry : training)
    if (std::filesystem::is_directory(entry.path)) run.prepared.push_back(open_prepared(entry, run));
    else files.push_back(entry);
  run.training = read_corpus(tokenizer, run, path, files);
  run.validation = read_corpus(tokenizer, run, path, validation);
  run.data_digest = digest_of_training(run);
  run.validation_digest = digest_of_documents(run.validation.documents);
  return run;
}

std::vector<TrainingSource> training_sources(const RunCorpus& corpus) {
  std::vector<TrainingSource> sources;
  std::set<std::string> names;
  const auto add = [&](TrainingSource source) {
    if (!names.insert(source.name).second)
      fail(ErrorKind::invalid_input, "data.train: two sources are named " + source.name + ": prepare one of them anew");
    sources.push_back(std::move(source));
  };
  if (corpus.training.documents.count() > 0)
    add({.name = kFilesSource, .documents = list_of(corpus.training.documents)});
  for (const auto& prepared : corpus.prepared)
    for (const TokenShards::Source& source : prepared->sources())
      add({source.name(), source.weight(), {source.documents(), source.tokens(), [&source](int64_t i) {
                                              return source.document(i);
                                            }}});
  return sources;
}

}  // namespace fulgur

#include "data/token_index.h"

#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "files/atomic.h"
#include "files/digest.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

// Takes the fields of one object of the index.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) refuse("expected an object");
  }

  int64_t number(const char* key, int64_t most = INT64_MAX) const {
    const Json& value = at(key);
    const bool whole = value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
    if (!whole || value.get<int64_t>() < 0 || value.get<int64_t>() > most)
      refuse(std::string(key) + " is " + in_quotes(value.dump(-1, ' ', true)) + ", expected a whole number from 0" +
             (most == INT64_MAX ? "" : " to " + std::to_string(most)));
    return value.get<int64_t>();
  }
  double weight(const char* key) const {
    const Json& value = at(key);
    if (!value.is_number() || !(value.get<double>() > 0)) refuse(std::string(key) + ": expected a number above 0");
    return value.get<double>();
  }
  std::string text(const char* key) const {
    const Json& value = at(key);
    if (!value.is_string()) refuse(std::string(key) + ": expected a text");
    return value.get<std::string>();
  }
  // take(Fields) for each object of a list.
  template <class Take>
  void each(const char* key, const Take& take) const {
    const Json& list = at(key);
    if (!list.is_array()) refuse(std::string(key) + ": expected a list");
    for (size_t i = 0; i < list.size(); ++i) take(Fields(list[i], where_ + ": " + key + "[" + std::to_string(i) + "]"));
  }
  [[noreturn]] void refuse(const std::string& what) const { fail(ErrorKind::corrupt_file, where_ + ": " + what); }

 private:
  const Json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) refuse(std::string(key) + " is missing");
    return *found;
  }
  const Json& object_;
  std::string where_;
};

void require_sum(const Fields& fields, const char* key, int64_t sum) {
  if (fields.number(key) != sum)
    fields.refuse(std::string(key) + " is " + std::to_string(fields.number(key)) + ", its shards have " +
                  std::to_string(sum));
}

TokenSource source_of(const Fields& fields) {
  TokenSource source{.name = fields.text("name"), .weight = fields.weight("weight"), .shards = {}};
  if (!is_source_name(source.name))
    fields.refuse("name is " + in_quotes(source.name) + ", which cannot begin a file's name");
  constexpr int64_t kMost = int64_t(1) << 40;  // so that sums stay within 64 bits
  fields.each("shards", [&](const Fields& shard) {
    source.shards.push_back({shard.text("file"), shard.number("documents", kMost), shard.number("tokens", kMost),
                             shard.number("bytes", kMost), shard.text("digest")});
    const std::string& file = source.shards.back().file;
    if (!file.starts_with(source.name + "-") || file.find('/') != file.npos)
      shard.refuse("file is " + in_quotes(file) + ", expected " + source.name + "-NNNNN.safetensors");
  });
  require_sum(fields, "documents", source.documents());
  require_sum(fields, "tokens", source.tokens());
  require_sum(fields, "bytes", source.bytes());
  return source;
}

Json head_of(const TokenIndex& index) {
  return {{"format", kTokenFormat},
          {"vocab_size", index.vocab_size},
          {"tokenizer_digest", index.tokenizer_digest},
          {"begin_of_sentence", index.begin_of_sentence},
          {"end_of_document", index.end_of_document}};
}

Json json_of(const TokenSource& source) {
  Json shards = Json::array();
  for (const ShardEntry& s : source.shards)
    shards.push_back(
        {{"file", s.file}, {"documents", s.documents}, {"tokens", s.tokens}, {"bytes", s.bytes}, {"digest", s.digest}});
  return {{"name", source.name},       {"weight", source.weight}, {"documents", source.documents()},
          {"tokens", source.tokens()}, {"bytes", source.bytes()}, {"shards", std::move(shards)}};
}

int64_t sum_of(const std::vector<ShardEntry>& shards, int64_t ShardEntry::*field) {
  int64_t sum = 0;
  for (const ShardEntry& shard : shards) sum += shard.*field;
  return sum;
}

}  // namespace

int64_t TokenSource::documents() const { return sum_of(shards, &ShardEntry::documents); }
int64_t TokenSource::tokens() const { return sum_of(shards, &ShardEntry::tokens); }
int64_t TokenSource::bytes() const { return sum_of(shards, &ShardEntry::bytes); }

std::string TokenIndex::fingerprint() const {
  std::string text = head_of(*this).dump();
  for (const TokenSource& source : sources)
    for (const ShardEntry& shard : source.shards) text += "\n" + shard.digest;
  return digest_of(text);
}

bool is_source_name(const std::string& name) {
  const auto plain = [](char c) { return std::isalnum(uint8_t(c)) != 0; };
  if (name.empty() || name.size() > 100 || !plain(name.front())) return false;
  for (const char c : name)
    if (!plain(c) && c != '_' && c != '-' && c != '.') return false;
  return true;
}

TokenIndex read_token_index(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kTokenIndexFile;
  if (std::error_code ignored; !std::filesystem::is_regular_file(file, ignored))
    fail(ErrorKind::not_found, folder.string() + ": holds no " + kTokenIndexFile +
                                   "; expected a folder that `fulgur data prepare` has completed");
  const Json json = parse_object(read_text(file), file.string());
  const Fields fields(json, file.string());
  if (fields.text("format") != kTokenFormat)
    fields.refuse("format is " + in_quotes(fields.text("format")) + ", expected \"" + kTokenFormat + "\"");
  TokenIndex index;
  index.vocab_size = int32_t(fields.number("vocab_size", INT32_MAX));
  index.tokenizer_digest = fields.text("tokenizer_digest");
  index.begin_of_sentence = int32_t(fields.number("begin_of_sentence", INT32_MAX));
  index.end_of_document = int32_t(fields.number("end_of_document", INT32_MAX));
  fields.each("inputs", [&](const Fields& input) {
    index.inputs.push_back({input.text("source"), input.text("path"), input.text("digest"), input.number("bytes")});
  });
  std::set<std::string> names;
  fields.each("sources", [&](const Fields& source) {
    index.sources.push_back(source_of(source));
    if (!names.insert(index.sources.back().name).second) source.refuse("name is there twice");
  });
  if (fields.text("fingerprint") != index.fingerprint())
    fields.refuse("fingerprint is " + in_quotes(fields.text("fingerprint")) + ", its fields have " +
                  index.fingerprint());
  return index;
}

void write_token_index(const std::filesystem::path& folder, const TokenIndex& index) {
  Json json = head_of(index);
  json["fingerprint"] = index.fingerprint();
  json["inputs"] = Json::array(), json["sources"] = Json::array();
  for (const TokenInput& i : index.inputs)
    json["inputs"].push_back({{"source", i.source}, {"path", i.path}, {"digest", i.digest}, {"bytes", i.bytes}});
  for (const TokenSource& source : index.sources) json["sources"].push_back(json_of(source));
  write_file(folder / kTokenIndexFile, json.dump(1) + "\n");
}

}  // namespace fulgur

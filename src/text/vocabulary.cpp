// Reads every field that could change an id, and refuses what it does not know rather than guess.
#include "text/vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "files/json_file.h"
#include "text/byte_alphabet.h"

namespace fulgur {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kMostTokens = int64_t(1) << 21;  // three ids or ranks fit one 64-bit word

[[noreturn]] void corrupt(const std::string& file, const std::string& field, const std::string& expected) {
  fail(ErrorKind::corrupt_file, file + ": " + field + ": expected " + expected);
}

// tokenizer.json while it is read: where we are, for the messages.
struct Reader {
  std::string file;
  std::unordered_map<std::string, int32_t> ids;  // by the text in the file

  Json parse(const std::filesystem::path& path) {
    file = path.string();
    const std::string text = read_text(path);
    // The parser takes a zero byte for the end.
    if (text.find('\0') != text.npos)
      corrupt(file, "the file", "JSON (zero byte " + std::to_string(text.find('\0')) + ")");
    try {
      return Json::parse(text);
    } catch (const Json::exception& error) {
      corrupt(file, "the file", std::string("JSON (") + error.what() + ")");
    }
  }

  const Json& object(const Json& parent, const char* key) const {
    const auto found = parent.find(key);
    if (found == parent.end() || !found->is_object()) corrupt(file, key, "an object");
    return *found;
  }

  template <class T>
  T value(const Json& parent, const char* key, T otherwise) const {
    const auto found = parent.find(key);
    if (found == parent.end() || found->is_null()) return otherwise;
    const bool fits = std::is_same_v<T, bool> ? found->is_boolean()
                      : std::is_integral_v<T> ? found->is_number_integer()
                                              : found->is_string();
    if (!fits)
      corrupt(file, key, std::is_same_v<T, bool> ? "true or false" : std::is_integral_v<T> ? "an integer" : "text");
    return found->get<T>();
  }

  std::string type_of(const Json& part) const {
    return part.is_object() ? value<std::string>(part, "type", "without type") : std::string("none");
  }
};

Normalisation read_normalizer(const Reader& reader, const Json& part) {
  if (part.is_null()) return Normalisation::none;
  const std::string type = reader.type_of(part);
  if (type == "NFC") return Normalisation::nfc;
  if (type == "Sequence" && part.contains("normalizers") && part["normalizers"].is_array()) {
    if (part["normalizers"].empty()) return Normalisation::none;
    if (part["normalizers"].size() == 1) return read_normalizer(reader, part["normalizers"][0]);
  }
  fail(ErrorKind::unsupported, reader.file + ": normalizer " + type + ", expected NFC or none");
}

// GPT-2's own splitting is inside ByteLevel, where `use_regex` asks for it.
std::optional<SplitStep> read_byte_level(const Reader& reader, const Json& part) {
  if (reader.value(part, "add_prefix_space", true)) {
    fail(ErrorKind::unsupported, reader.file + ": pre_tokenizer ByteLevel with add_prefix_space, expected without");
  }
  return reader.value(part, "use_regex", true) ? std::optional<SplitStep>(SplitRule::gpt2) : std::nullopt;
}

SplitStep read_split(const Reader& reader, const Json& part) {
  const auto pattern = reader.value<std::string>(reader.object(part, "pattern"), "Regex", "");
  const auto behavior = reader.value<std::string>(part, "behavior", "");
  const bool invert = reader.value(part, "invert", false);
  const auto refuse = [&](const std::string& why) {
    fail(ErrorKind::unsupported, reader.file + ": pre_tokenizer Split with " + why);
  };
  if (pattern.empty()) refuse("a pattern that is no Regex");
  if (!(behavior == "Isolated" && !invert) && !(behavior == "Removed" && invert)) {
    refuse("behavior " + behavior + (invert ? " and invert" : "") + ", expected Isolated, or Removed and invert");
  }
  try {
    return SplitStep(pattern, invert ? Gaps::vanish : Gaps::are_pieces);
  } catch (const Error& error) {
    refuse("pattern " + Json(pattern).dump() + ": " + error.what());
    throw;
  }
}

PreTokenizer read_pre_tokenizer(const Reader& reader, const Json& part) {
  Json steps = Json::array({part});
  if (reader.type_of(part) == "Sequence") {
    if (!part.contains("pretokenizers") || !part["pretokenizers"].is_array()) {
      corrupt(reader.file, "pre_tokenizer.pretokenizers", "a list");
    }
    steps = part["pretokenizers"];
  }
  PreTokenizer rules;
  bool byte_level = false;
  for (const Json& step : steps) {
    const std::string type = reader.type_of(step);
    if (type == "ByteLevel" && !byte_level) {
      byte_level = true;
      if (const auto rule = read_byte_level(reader, step)) rules.push_back(*rule);
    } else if (type == "Split" && !byte_level) {
      rules.push_back(read_split(reader, step));
    } else {
      fail(ErrorKind::unsupported, reader.file + ": pre_tokenizer " + type + ", expected Split and then ByteLevel");
    }
  }
  if (byte_level && !rules.empty()) return rules;
  fail(ErrorKind::unsupported, reader.file + ": pre_tokenizer without Split and ByteLevel, expected both");
}

void add_token(const Reader& reader, Vocabulary& into, int64_t id, std::string bytes, const std::string& text) {
  if (id < 0 || id >= kMostTokens) {
    corrupt(reader.file, "token '" + text + "'", "an id of 0.." + std::to_string(kMostTokens - 1));
  }
  if (text.empty()) corrupt(reader.file, "token " + std::to_string(id), "a text that is not empty");
  if (size_t(id) >= into.tokens.size()) into.tokens.resize(size_t(id) + 1);
  std::string& place = into.tokens[size_t(id)];
  if (!place.empty() && place != bytes) corrupt(reader.file, "token '" + text + "'", "an id of its own");
  place = std::move(bytes);
}

void read_tokens(Reader& reader, Vocabulary& into, const Json& vocab) {
  reader.ids.reserve(vocab.size());
  for (const auto& [text, id] : vocab.items()) {
    if (!id.is_number_integer()) corrupt(reader.file, "model.vocab '" + text + "'", "an integer");
    // A token that is not written in the byte alphabet can only be an added one; it is its own text.
    add_token(reader, into, id.get<int64_t>(), from_byte_alphabet(text).value_or(text), text);
    reader.ids.emplace(text, id.get<int32_t>());
  }
}

void add_merge(const Reader& reader, Vocabulary& into, const std::string& left, const std::string& right) {
  const auto id = [&](const std::string& text) {
    const auto found = reader.ids.find(text);
    if (found == reader.ids.end()) {
      corrupt(reader.file, "merge " + std::to_string(into.merges.size()),
              "token '" + text + "' to be in the vocabulary");
    }
    return found->second;
  };
  into.merges.push_back({id(left), id(right), id(left + right)});
}

void add_merge_line(const Reader& reader, Vocabulary& into, const std::string& line) {
  const size_t space = line.find(' ');
  if (space == line.npos || line.find(' ', space + 1) != line.npos) {
    corrupt(reader.file, "merge " + std::to_string(into.merges.size()), "two tokens and one space between");
  }
  add_merge(reader, into, line.substr(0, space), line.substr(space + 1));
}

void read_merges(const Reader& reader, Vocabulary& into, const Json& merges) {
  into.merges.reserve(merges.size());
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      add_merge_line(reader, into, merge.get_ref<const std::string&>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(reader, into, merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
    } else {
      corrupt(reader.file, "model.merges " + std::to_string(into.merges.size()), "\"A B\" or [\"A\", \"B\"]");
    }
  }
}

void read_model(Reader& reader, Vocabulary& into, const Json& model) {
  if (const auto type = reader.value<std::string>(model, "type", "BPE"); type != "BPE") {
    fail(ErrorKind::unsupported, reader.file + ": model " + type + ", expected BPE");
  }
  for (const char* field : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto text = reader.value<std::string>(model, field, ""); !text.empty()) {
      fail(ErrorKind::unsupported, reader.file + ": model." + field + " '" + text + "', expected none");
    }
  }
  if (reader.value(model, "byte_fallback", false)) {
    fail(ErrorKind::unsupported, reader.file + ": model.byte_fallback true, expected false");
  }
  if (const auto dropout = model.find("dropout"); dropout != model.end() && !dropout->is_null()) {
    if (!dropout->is_number() || dropout->get<double>() != 0) {
      fail(ErrorKind::unsupported, reader.file + ": model.dropout " + dropout->dump() + ", expected none");
    }
  }
  if (reader.value(model, "ignore_merges", false)) into.whole_words = WholeWords::looked_up;
  read_tokens(reader, into, reader.object(model, "vocab"));
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) corrupt(reader.file, "model.merges", "a list");
  read_merges(reader, into, *merges);
}

void read_added_token(const Reader& reader, Vocabulary& into, const Json& part) {
  if (!part.is_object()) corrupt(reader.file, "added_tokens", "a list of objects");
  AddedToken token{.content = reader.value<std::string>(part, "content", ""),
                   .id = int32_t(std::clamp<int64_t>(reader.value<int64_t>(part, "id", -1), -1, kMostTokens)),
                   .special = reader.value(part, "special", false),
                   .normalized = reader.value(part, "normalized", true)};
  for (const char* field : {"lstrip", "rstrip", "single_word"}) {
    if (reader.value(part, field, false)) {
      fail(ErrorKind::unsupported,
           reader.file + ": added token '" + token.content + "' with " + field + ", expected without");
    }
  }
  // Where the vocabulary has it already, the decoder says what it is.
  if (token.id < 0 || size_t(token.id) >= into.tokens.size() || into.tokens[size_t(token.id)].empty()) {
    add_token(reader, into, token.id, token.content, token.content);
  }
  if (token.content.empty()) corrupt(reader.file, "added token " + std::to_string(token.id), "content");
  into.added.push_back(std::move(token));
}

Vocabulary read_tokenizer_json(const std::filesystem::path& path) {
  Reader reader;
  const Json json = reader.parse(path);
  if (!json.is_object()) corrupt(reader.file, "the file", "an object");
  const Json none;
  const auto part = [&](const char* key) -> const Json& { return json.contains(key) ? json[key] : none; };
  Vocabulary vocabulary;
  vocabulary.normalisation = read_normalizer(reader, part("normalizer"));
  vocabulary.pre_tokenizer = read_pre_tokenizer(reader, part("pre_tokenizer"));
  read_model(reader, vocabulary, reader.object(json, "model"));
  if (part("added_tokens").is_array()) {
    for (const Json& token : part("added_tokens")) read_added_token(reader, vocabulary, token);
  }
  return vocabulary;
}

// vocab.json + merges.txt: GPT-2 as it was published, without NFC; <|endoftext|> is its only special token.
Vocabulary read_gpt2_files(const std::filesystem::path& folder) {
  Reader reader;
  Vocabulary vocabulary;
  vocabulary.normalisation = Normalisation::none;
  vocabulary.pre_tokenizer = {SplitRule::gpt2};
  const Json vocab = reader.parse(folder / "vocab.json");
  if (!vocab.is_object()) corrupt(reader.file, "the file", "an object");
  read_tokens(reader, vocabulary, vocab);
  reader.file = (folder / "merges.txt").string();
  const std::string text = read_text(folder / "merges.txt");
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && !(begin == 0 && line.starts_with("#version"))) add_merge_line(reader, vocabulary, line);
    begin = end + 1;
  }
  if (const auto end = reader.ids.find("<|endoftext|>"); end != reader.ids.end()) {
    vocabulary.added.push_back({.content = end->first, .id = end->second});
  }
  return vocabulary;
}

OrderedJson byte_level_json() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
}

OrderedJson added_token_json(const AddedToken& token) {
  return {{"id", token.id},  {"content", token.content},       {"single_word", false},    {"lstrip", false},
          {"rstrip", false}, {"normalized", token.normalized}, {"special", token.special}};
}

OrderedJson pre_tokenizer_json(const PreTokenizer& rules) {
  OrderedJson steps = OrderedJson::array();
  for (const SplitStep& rule : rules) {
    const bool vanish = rule.gaps == Gaps::vanish;
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", rule.pattern()}}},
                     {"behavior", vanish ? "Removed" : "Isolated"},
                     {"invert", vanish}});
  }
  steps.push_back(byte_level_json());
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

OrderedJson model_json(const Vocabulary& vocabulary) {
  std::vector<std::string> texts;
  for (const std::string& token : vocabulary.tokens) texts.push_back(to_byte_alphabet(token));
  std::vector<bool> is_added(vocabulary.tokens.size());
  for (const AddedToken& token : vocabulary.added) is_added[size_t(token.id)] = true;
  // Entries go to the underlying list, since the map would compare each new key with all before it.
  OrderedJson::object_t vocab;
  std::vector<OrderedJson::object_t::value_type>& entries = vocab;
  for (size_t id = 0; id < texts.size(); ++id) {
    if (!texts[id].empty() && !is_added[id]) entries.emplace_back(texts[id], id);
  }
  OrderedJson merges = OrderedJson::array();
  for (const Merge& merge : vocabulary.merges) {
    merges.push_back(texts[size_t(merge.left)] + " " + texts[size_t(merge.right)]);
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", vocabulary.whole_words == WholeWords::looked_up},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace

Vocabulary read_vocabulary(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) fail(ErrorKind::not_found, path.string() + ": no such file or folder");
  if (!std::filesystem::is_directory(path, error)) return read_tokenizer_json(path);
  if (std::filesystem::exists(path / "tokenizer.json", error)) return read_tokenizer_json(path / "tokenizer.json");
  if (std::filesystem::exists(path / "vocab.json", error)) return read_gpt2_files(path);
  fail(ErrorKind::not_found, path.string() + ": neither tokenizer.json nor vocab.json and merges.txt");
}

std::string to_tokenizer_json(const Vocabulary& vocabulary) {
  OrderedJson added = OrderedJson::array();
  for (const AddedToken& token : vocabulary.added) added.push_back(added_token_json(token));
  const bool nfc = vocabulary.normalisation == Normalisation::nfc;
  const OrderedJson json{{"version", "1.0"},
                         {"truncation", nullptr},
                         {"padding", nullptr},
                         {"added_tokens", added},
                         {"normalizer", nfc ? OrderedJson{{"type", "NFC"}} : OrderedJson()},
                         {"pre_tokenizer", pre_tokenizer_json(vocabulary.pre_tokenizer)},
                         {"post_processor", nullptr},
                         {"decoder", byte_level_json()},
                         {"model", model_json(vocabulary)}};
  return json.dump(1) + "\n";
}

}  // namespace fulgur

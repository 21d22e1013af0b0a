// encode: added tokens of the raw text, clean UTF-8 and NFC, added tokens of the normalised text, words, merges.
#include "text/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/random.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/vocabulary.h"
#include "text/word_cache.h"

namespace fulgur {
namespace {

std::vector<int32_t> ids_of_bytes(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(256, -1);
  for (size_t id = vocabulary.tokens.size(); id-- > 0;) {
    if (vocabulary.tokens[id].size() == 1) ids[uint8_t(vocabulary.tokens[id][0])] = int32_t(id);
  }
  if (const auto missing = std::find(ids.begin(), ids.end(), -1); missing != ids.end()) {
    fail(ErrorKind::unsupported, "the vocabulary has no token for byte " + std::to_string(missing - ids.begin()) +
                                     ", expected all 256 (byte-level BPE)");
  }
  return ids;
}

enum class Stage { raw, normalised };

std::vector<AddedToken> tokens_of_stage(const Vocabulary& vocabulary, Stage stage) {
  std::vector<AddedToken> found;
  for (AddedToken token : vocabulary.added) {
    if (token.normalized != (stage == Stage::normalised)) continue;
    std::string storage;
    if (token.normalized) token.content = std::string(cleaned(token.content, vocabulary.normalisation, storage));
    found.push_back(std::move(token));
  }
  return found;
}

// on_text for what lies between the added tokens of `text`, on_token for them. With as_text a special token is text.
template <class OnText, class OnToken>
void cut_at_added_tokens(const AddedTokenFinder& finder, std::string_view text, SpecialTokens special,
                         const OnText& on_text, const OnToken& on_token) {
  size_t begin = 0;
  for (size_t at = 0;;) {
    const AddedTokenFinder::Found found = finder.find(text, at);
    const bool counts = found.token && !(found.token->special && special == SpecialTokens::as_text);
    if (found.token) at = found.begin + found.token->content.size();
    if (found.token && !counts) continue;
    if (found.begin > begin) on_text(text.substr(begin, found.begin - begin));
    if (!found.token) return;
    on_token(found.token->id);
    begin = at;
  }
}

constexpr size_t kNotWorthCutting = 6;  // bytes: two characters of Chinese

// Scanners see no further than the characters beside the place; what an expression for ICU sees is unknown.
bool may_cut_at_lines(const Vocabulary& vocabulary) {
  const auto scanned = [](const SplitStep& step) { return step.rule != SplitRule::regex; };
  const auto in_line = [](const AddedToken& token) { return token.content.find('\n') == token.content.npos; };
  return std::all_of(vocabulary.pre_tokenizer.begin(), vocabulary.pre_tokenizer.end(), scanned) &&
         std::all_of(vocabulary.added.begin(), vocabulary.added.end(), in_line);
}

// The flags of the character that starts at `at`; of an invalid one those of U+FFFD, of one cut off by the end none.
CharFlags flags_at(std::string_view text, size_t at) {
  int invalid_bytes;
  const int bytes = utf8_sequence(text.substr(at), invalid_bytes);
  if (bytes < 0) return 0;
  return char_at(char_flags(), bytes > 0 ? text.data() + at : kReplacement.data()).flags;
}

// Of the character that ends before `end` > 0.
CharFlags flags_before(std::string_view text, size_t end) {
  size_t begin = end - 1;
  for (size_t most = std::min<size_t>(begin, 3); most > 0 && (uint8_t(text[begin]) & 0xC0) == 0x80; --most) --begin;
  return flags_at(text.substr(0, end), begin);
}

// Entries worth their clearing for a text of this length.
size_t cache_entries(size_t text_bytes) { return std::clamp<size_t>(text_bytes / 16, 16, 1 << 16); }

}  // namespace

struct Tokenizer::Parts {
  explicit Parts(Vocabulary from)
      : vocabulary(std::move(from)),
        merger(std::span<const int32_t, 256>(ids_of_bytes(vocabulary)), vocabulary.merges, vocabulary.tokens),
        raw_tokens(tokens_of_stage(vocabulary, Stage::raw)),
        normalised_tokens(tokens_of_stage(vocabulary, Stage::normalised)),
        cut_at_lines(may_cut_at_lines(vocabulary)) {
    special.resize(vocabulary.tokens.size());
    for (const AddedToken& token : vocabulary.added) special[size_t(token.id)] = token.special;
    if (vocabulary.whole_words == WholeWords::merged) return;
    for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
      if (!vocabulary.tokens[id].empty()) whole_words.emplace(vocabulary.tokens[id], int32_t(id));
    }
  }

  void append_word(std::string_view word, std::vector<int32_t>& out) const {
    if (!whole_words.empty()) {
      if (const auto found = whole_words.find(word); found != whole_words.end()) return out.push_back(found->second);
    }
    merger.append_tokens(word, out);
  }

  Vocabulary vocabulary;
  BytePairMerger merger;
  AddedTokenFinder raw_tokens, normalised_tokens;
  bool cut_at_lines;
  std::unordered_map<std::string_view, int32_t> whole_words;  // only where words are looked up
  std::vector<bool> special;
};

Tokenizer::Tokenizer(Vocabulary vocabulary) : parts_(std::make_unique<const Parts>(std::move(vocabulary))) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& model_folder_or_file) {
  return Tokenizer(read_vocabulary(model_folder_or_file));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  std::vector<int32_t> out;
  WordCache cache(cache_entries(text.size()));
  encode(text, special, cache, out);
  return out;
}

void Tokenizer::encode(std::string_view text, SpecialTokens special, WordCache& cache,
                       std::vector<int32_t>& out) const {
  const auto on_token = [&](int32_t id) { out.push_back(id); };
  const auto on_normalised = [&](std::string_view part) { append_plain(part, cache, out); };
  const auto on_raw = [&](std::string_view part) {
    std::string storage;
    const std::string_view clean = cleaned(part, parts_->vocabulary.normalisation, storage);
    cut_at_added_tokens(parts_->normalised_tokens, clean, special, on_normalised, on_token);
  };
  cut_at_added_tokens(parts_->raw_tokens, text, special, on_raw, on_token);
}

size_t Tokenizer::independent_prefix(std::string_view text) const {
  if (!parts_->cut_at_lines) return 0;
  for (size_t at = text.rfind('\n'); at != text.npos && at > 0; at = text.rfind('\n', at - 1)) {
    if (at + 1 == text.size() || (flags_before(text, at) & kSpace)) continue;
    const CharFlags after = flags_at(text, at + 1);
    if ((after & kLetter) && !(after & kUnsettled)) return at + 1;
  }
  return 0;
}

void Tokenizer::append_plain(std::string_view text, WordCache& cache, std::vector<int32_t>& out) const {
  const char* text_end = text.data() + text.size();
  const bool may_cut = parts_->whole_words.empty();
  Splitter words(parts_->vocabulary.pre_tokenizer, text);
  for (std::string_view word = words.next(); !word.empty(); word = words.next()) {
    // Without spaces a word is most of a sentence, but its independent parts come again.
    while (may_cut && word.size() > kNotWorthCutting && uint8_t(word.back()) >= 0x80) {
      const size_t part = parts_->merger.independent_prefix(word);
      if (part == word.size()) break;
      append_word(word.substr(0, part), text_end, cache, out);
      word.remove_prefix(part);
    }
    append_word(word, text_end, cache, out);
  }
}

void Tokenizer::append_word(std::string_view word, const char* text_end, WordCache& cache,
                            std::vector<int32_t>& out) const {
  if (word.size() > WordCache::kLongestWord) return parts_->append_word(word, out);
  const WordCache::Key key = WordCache::key_of(word, text_end);
  if (const WordCache::Entry* known = cache.find(key)) {
    for (int32_t i = 0; i < known->count; ++i) out.push_back(known->tokens[i]);
    return;
  }
  const size_t before = out.size();
  parts_->append_word(word, out);
  cache.store(key, std::span(out).subspan(before));
}

std::string_view Tokenizer::bytes_of(int32_t id) const {
  const std::vector<std::string>& tokens = parts_->vocabulary.tokens;
  if (id < 0 || size_t(id) >= tokens.size() || tokens[size_t(id)].empty()) {
    fail(ErrorKind::invalid_input,
         "token id " + std::to_string(id) + " has no token, expected 0.." + std::to_string(vocab_size() - 1));
  }
  return tokens[size_t(id)];
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (const int32_t id : ids) bytes.append(bytes_of(id));
  return bytes;
}

int32_t Tokenizer::vocab_size() const { return int32_t(parts_->vocabulary.tokens.size()); }

std::optional<int32_t> Tokenizer::id_of(std::string_view added_token) const {
  for (const AddedToken& token : parts_->vocabulary.added) {
    if (token.content == added_token) return token.id;
  }
  return std::nullopt;
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && size_t(id) < parts_->special.size() && parts_->special[size_t(id)];
}

uint64_t Tokenizer::digest() const {
  const Vocabulary& vocabulary = parts_->vocabulary;
  std::string all;
  const auto add = [&](std::string_view text) { all.append(std::to_string(text.size())).append(":").append(text); };
  add(vocabulary.normalisation == Normalisation::nfc ? "nfc" : "as it is");
  add(vocabulary.whole_words == WholeWords::looked_up ? "words looked up" : "words merged");
  for (const SplitStep& step : vocabulary.pre_tokenizer) {
    add(step.gaps == Gaps::vanish ? "matches alone" : "all");
    add(step.pattern());
  }
  for (const std::string& token : vocabulary.tokens) add(token);
  for (const Merge& merge : vocabulary.merges) add({reinterpret_cast<const char*>(&merge), sizeof merge});
  for (const AddedToken& token : vocabulary.added) {
    add(token.content);
    add(std::to_string(token.id) + (token.special ? " special" : "") + (token.normalized ? " normalized" : ""));
  }
  return fnv1a64(all);
}

StreamingEncoder::StreamingEncoder(const Tokenizer& tokenizer, SpecialTokens special)
    : tokenizer_(tokenizer), special_(special), cache_(std::make_unique<WordCache>()) {}
StreamingEncoder::~StreamingEncoder() = default;

std::span<const int32_t> StreamingEncoder::feed(std::string_view part) {
  pending_.append(part);
  return encode_first(tokenizer_.independent_prefix(pending_));
}

std::span<const int32_t> StreamingEncoder::flush() { return encode_first(pending_.size()); }

std::span<const int32_t> StreamingEncoder::encode_first(size_t bytes) {
  ids_.clear();
  tokenizer_.encode(std::string_view(pending_).substr(0, bytes), special_, *cache_, ids_);
  pending_.erase(0, bytes);
  return ids_;
}

std::string StreamingDecoder::feed(int32_t id) {
  std::string text;
  pending_.append(tokenizer_.bytes_of(id));
  pending_.erase(0, append_valid_utf8(pending_, text));
  return text;
}

std::string StreamingDecoder::flush() {
  const std::string text = to_valid_utf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace fulgur

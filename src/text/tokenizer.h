// Tokenizer: text to token ids and back, byte-level BPE. Equal ids to Hugging Face's tokenizers for every file it
// loads.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

struct Vocabulary;
class WordCache;

// Whether a special token's text inside a text is that token or ordinary text. Never as_ids on what a user wrote.
enum class SpecialTokens : uint8_t { as_text, as_ids };

// Immutable once made, so that any number of threads may share it.
class Tokenizer {
 public:
  // A model folder (tokenizer.json, or vocab.json and merges.txt) or a tokenizer.json.
  static Tokenizer load(const std::filesystem::path& model_folder_or_file);
  explicit Tokenizer(Vocabulary vocabulary);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Invalid UTF-8 counts as U+FFFD. A text of any length takes linear time but for the sorting inside long words.
  std::vector<int32_t> encode(std::string_view text, SpecialTokens special) const;
  // For many short texts: words seen before need not be merged again.
  void encode(std::string_view text, SpecialTokens special, WordCache& cache, std::vector<int32_t>& out) const;

  // Bytes of `text`, up to its last place where what follows does not change the ids before it and is not changed by
  // them: both parts, encoded one after another, give the ids of the whole. Such a place is a newline between a
  // character that is no white space and a letter. 0 where there is none, and for tokenizers whose words may cross it.
  size_t independent_prefix(std::string_view text) const;

  // The tokens' bytes; a part of a character remains a part. An id without a token is invalid_input.
  std::string decode(std::span<const int32_t> ids) const;
  std::string_view bytes_of(int32_t id) const;

  // One more than the largest id.
  int32_t vocab_size() const;
  // The id of a token that is looked for in the text: `<end_of_sentence>`, `<image>` ...
  std::optional<int32_t> id_of(std::string_view added_token) const;
  bool is_special(int32_t id) const;
  // Equal for two tokenizers only if they give the same ids for every text.
  uint64_t digest() const;

 private:
  struct Parts;
  void append_plain(std::string_view text, WordCache& cache, std::vector<int32_t>& out) const;
  void append_word(std::string_view word, const char* text_end, WordCache& cache, std::vector<int32_t>& out) const;
  std::unique_ptr<const Parts> parts_;
};

// Turns text into ids as it comes, from parts cut anywhere. All ids together are encode(the whole text). Holds the text
// since the last independent place (Tokenizer::independent_prefix) and no more.
class StreamingEncoder {
 public:
  StreamingEncoder(const Tokenizer& tokenizer, SpecialTokens special);
  ~StreamingEncoder();

  // The ids that are known with this part; valid until the next call.
  std::span<const int32_t> feed(std::string_view part);
  // The ids of what is left at the end. The encoder may then be used anew.
  std::span<const int32_t> flush();

 private:
  std::span<const int32_t> encode_first(size_t bytes);

  const Tokenizer& tokenizer_;
  SpecialTokens special_;
  std::unique_ptr<WordCache> cache_;
  std::string pending_;
  std::vector<int32_t> ids_;
};

// Turns ids into text as they come, and never shows a part of a character. All pieces together are the whole text as
// to_valid_utf8(decode(all ids)).
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The text that became complete with this token; may be empty.
  std::string feed(int32_t id);
  // What is left at the end: U+FFFD if a character is incomplete. The decoder may then be used anew.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace fulgur

// What a tokenizer file says, as plain data: read from tokenizer.json or vocab.json + merges.txt, written as
// tokenizer.json.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/unicode.h"

namespace fulgur {

// The tokens left and right, side by side, become `result`; earlier merges win.
struct Merge {
  int32_t left, right, result;
  bool operator==(const Merge&) const = default;
};

// A token that is found in the text itself, before any splitting.
struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = true;      // ordinary text unless the caller asks for special tokens
  bool normalized = false;  // looked for after normalisation, not before
};

enum class WholeWords : uint8_t { merged, looked_up };  // looked_up: a word that is a token becomes it without merging

struct Vocabulary {
  Normalisation normalisation = Normalisation::nfc;
  PreTokenizer pre_tokenizer{SplitRule::o200k};
  WholeWords whole_words = WholeWords::merged;
  std::vector<std::string> tokens;  // [id] its bytes; empty where no token has this id
  std::vector<Merge> merges;
  std::vector<AddedToken> added;  // their content is in `tokens` too
};

// `path`: a folder with tokenizer.json (or vocab.json and merges.txt), or a tokenizer.json.
Vocabulary read_vocabulary(const std::filesystem::path& path);

// The text of a tokenizer.json that Hugging Face's tokenizers loads.
std::string to_tokenizer_json(const Vocabulary& vocabulary);

}  // namespace fulgur

// A tokenizer.json: read, and where it is one, a text goes there and back, and has the same ids in two parts.
// sources: src/text/vocabulary.cpp src/text/tokenizer.cpp src/text/bpe.cpp src/text/pre_tokenizer.cpp
// sources: src/text/split_rules.cpp src/text/regex_rule.cpp src/text/added_tokens.cpp src/text/byte_alphabet.cpp
// sources: src/text/unicode.cpp
#include "tests/fuzz/fuzz.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fulgur;
  const fuzz::MemoryFile file(data, size);
  fuzz::run([&] {
    const Tokenizer tokenizer(read_vocabulary(file.path()));
    const std::string text = "It's\nso 12345 \xe4\xbd\xa0\xe5\xa5\xbd <pad>\r\n\t\xf0\x9f\x98\x80 \xff" +
                             std::string(fuzz::text_of(data, size).substr(0, 200));
    const std::vector<int32_t> ids = tokenizer.encode(text, SpecialTokens::as_ids);
    tokenizer.decode(ids);
    StreamingEncoder encoder(tokenizer, SpecialTokens::as_ids);
    std::vector<int32_t> parts;
    const auto take = [&](std::span<const int32_t> known) { parts.insert(parts.end(), known.begin(), known.end()); };
    take(encoder.feed(std::string_view(text).substr(0, text.size() / 2)));
    take(encoder.feed(std::string_view(text).substr(text.size() / 2)));
    take(encoder.flush());
    expect(parts == ids, "a text in parts has the ids of the whole");
  });
  return 0;
}

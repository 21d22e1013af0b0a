// A tokenizer.json: read, and where it is one, a text goes there and back.
#include "tests/fuzz/fuzz.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fulgur;
  const fuzz::MemoryFile file(data, size);
  fuzz::run([&] {
    const Tokenizer tokenizer(read_vocabulary(file.path()));
    const std::string text = "It's 12345 \xe4\xbd\xa0\xe5\xa5\xbd <pad>\r\n\t\xf0\x9f\x98\x80 \xff" +
                             std::string(fuzz::text_of(data, size).substr(0, 200));
    tokenizer.decode(tokenizer.encode(text, SpecialTokens::as_ids));
  });
  return 0;
}

// The last stages of preparing data: the documents that stayed become training tokens, unit by unit, and the units of a
// source are laid together as shards.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "data/selection.h"
#include "data/token_index.h"
#include "text/tokenizer.h"

namespace fulgur {

struct FramingTokens {
  int32_t begin_of_sentence, end_of_document;
};
// Throws invalid_input where the tokenizer lacks one; path: of the tokenizer, for the message.
FramingTokens framing_tokens(const Tokenizer& tokenizer, const std::string& path);

// key: of all that decided the selection, its labels and the tokens.
void tokenise_units(const Tokenizer& tokenizer, const FramingTokens& frame, const Selection& selection,
                    const std::vector<uint8_t>& labels, const WorkFolder& work, const std::string& key,
                    Threads& threads, StageClock& clock);

// The shards of all sources from the units tokenised under the key, into config.out.
std::vector<TokenSource> write_shards_of_units(const PrepareConfig& config, const CleanedUnits& cleaned,
                                               const WorkFolder& work, const std::string& key, Threads& threads,
                                               StageClock& clock);

}  // namespace fulgur

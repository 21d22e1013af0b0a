// config.json in the words of the other family: the released code's (minimax_text_01) or transformers' own (minimax).
#pragma once
#include <string>
#include <string_view>

#include "model/config.h"

namespace fulgur {

// The same model as `config`, which is what `text` says. Keys that neither family knows are kept. A text that was
// converted there and comes back is the one it was, byte for byte. Throws unsupported, naming the key, for what family
// `to` cannot say: minimax has no pre-norm, and 1e-6 as the epsilon of the lightning norm. Its decays are
// others, so a checkpoint of it has to hold ours (model/decay_buffers.h), and its text says so; minimax_text_01 cannot
// say its decays where the number of heads is no power of two (spec/model.md 6). A part of each head is rotated there
// by the type "proportional", which wants the rows of q and k in another order: rotary_rows of the result says which.
std::string config_in_family(std::string_view text, const ModelConfig& config, Family to);

// Whose words the configuration's text has. config.family says whose decays it states.
Family words_of(const ModelConfig& config);

}  // namespace fulgur

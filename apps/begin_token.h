// The token that a model's texts begin with.
#pragma once
#include <filesystem>
#include <optional>

#include "text/tokenizer.h"

namespace fulgur {

// As tokenizer_config.json says: `bos_token` where `add_bos_token` is true. Chat templates write their own.
std::optional<int32_t> begin_token(const Tokenizer& tokenizer, const std::filesystem::path& model);

}  // namespace fulgur

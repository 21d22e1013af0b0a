// Int8 experts in config.json, in the words of compressed-tensors' format `int-quantized` (docs/formats.md).
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "model/config.h"

namespace fulgur {

// Whether quantization_config says that the experts are int8 as we compute them. null: they are not. Throws unsupported
// naming the key for any other quantisation.
bool judged_int8_experts(const nlohmann::ordered_json* quantization_config);

// The text of a config.json with that statement in it. It has passed parse_config, and does not quantise yet.
std::string with_int8_experts(std::string_view config_text);
// And without it.
std::string without_int8_experts(std::string_view config_text);

// Throws unsupported for a model with int8 experts, which `what`: "are not trained".
void refuse_int8_experts(const ModelConfig& config, const std::string& origin, const std::string& what);

}  // namespace fulgur

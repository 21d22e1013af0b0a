#include "model/quantisation.h"

#include <nlohmann/json.hpp>

#include "files/json_file.h"
#include "ops/weight.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kKey = "quantization_config";

Json weights_statement() {
  return {{"num_bits", 8},   {"type", "int"}, {"symmetric", true}, {"strategy", "group"}, {"group_size", kScaleColumns},
          {"dynamic", false}};
}

Json statement() {
  const Json targets = {"re:.*block_sparse_moe\\.experts\\.\\d+\\.w[123]$"};
  return {{"quant_method", "compressed-tensors"},
          {"format", "int-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", {{"targets", targets}, {"weights", weights_statement()}}}}},
          {"ignore", Json::array()}};
}

[[noreturn]] void refuse(const std::string& key, const Json& value, const std::string& expected) {
  fail(ErrorKind::unsupported, key + " is " + in_quotes(value.dump(-1, ' ', true)) + ", expected " + expected);
}

// What the object states of each of our keys is ours, and of others is nothing.
void judge(const std::string& name, const Json& object, const Json& ours) {
  if (!object.is_object()) refuse(name, object, "an object");
  for (const auto& [key, wanted] : ours.items()) {
    const auto found = object.find(key);
    const Json value = found == object.end() ? Json() : *found;
    if (wanted.is_object()) judge(name + "." + key, value, wanted);
    else if (value != wanted) refuse(name + "." + key, value, wanted.dump());
  }
  for (const auto& [key, value] : object.items())
    if (!ours.contains(key) && !value.is_null() && key != "version" && key != "global_compression_ratio" &&
        !(key == "sparsity_config" && value.empty()))
      refuse(name + "." + key, value, "no such key");
}

}  // namespace

bool judged_int8_experts(const Json* quantization_config) {
  if (quantization_config) judge(kKey, *quantization_config, statement());
  return quantization_config != nullptr;
}

std::string with_int8_experts(std::string_view text) {
  const std::string ours = statement().dump();
  const Json object = parse_object(text, "config.json");
  if (object.contains(kKey)) return with_value(text, kKey, ours);
  const size_t brace = text.find('{') + 1;
  return std::string(text.substr(0, brace)) + "\n  \"" + kKey + "\": " + ours + "," + std::string(text.substr(brace));
}

void refuse_int8_experts(const ModelConfig& config, const std::string& origin, const std::string& what) {
  if (config.int8_experts)
    fail(ErrorKind::unsupported,
         origin + ": quantization_config: int8 experts " + what +
             "; expected the model that was quantised, or `fulgur convert --dtype` of this one");
}

std::string without_int8_experts(std::string_view text) { return with_value(text, kKey, "null"); }

}  // namespace fulgur

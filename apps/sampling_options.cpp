#include "apps/sampling_options.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostTokens = int64_t(1) << 40;

[[noreturn]] void refuse(const std::string& field, const Json& value, const char* expected) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', true);
  fail(ErrorKind::invalid_input, field + " " + in_quotes(text) + ": expected " + expected);
}

void read_number(const Json& object, const char* field, float& to) {
  if (!object.contains(field)) return;
  if (!object.at(field).is_number()) refuse(field, object.at(field), "a number");
  to = object.at(field).get<float>();
}

template <class T>
void read_whole(const Json& object, const char* field, T& to, uint64_t most) {
  if (!object.contains(field)) return;
  const Json& value = object.at(field);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > most) refuse(field, value, "a whole number from 0");
  to = T(value.get<uint64_t>());
}

void read_stop(const Json& object, std::vector<std::string>& to) {
  if (!object.contains("stop")) return;
  const Json& value = object.at("stop");
  to.clear();
  for (const Json& one : value.is_array() ? value : Json::array({value})) {
    if (!one.is_string()) refuse("stop", value, "a text or a list of texts");
    to.push_back(one.get<std::string>());
  }
}

void read_biases(const Json& object, std::vector<std::string>& to) {
  if (!object.contains("logit_bias")) return;
  const Json& value = object.at("logit_bias");
  if (!value.is_object()) refuse("logit_bias", value, "an object of id to number");
  to.clear();
  for (const auto& [id, bias] : value.items()) {
    if (!bias.is_number()) refuse("logit_bias", value, "an object of id to number");
    to.push_back(id + "=" + bias.dump());
  }
}

}  // namespace

void SamplingOptions::add_to(CLI::App& command) {
  command.add_option("--max-tokens", max_tokens, "tokens to generate at most")
      ->check(CLI::Range(int64_t(1), kMostTokens))
      ->capture_default_str();
  command.add_option("--temperature", sampling.temperature, "0: the most likely token")->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "draw from the k most likely tokens; 0: all")->capture_default_str();
  command
      .add_option("--typical-p", sampling.typical_p,
                  "draw from the fewest tokens that reach probability p, those of the most typical surprise first")
      ->capture_default_str();
  command.add_option("--top-p", sampling.top_p, "draw from the fewest tokens that reach probability p")
      ->capture_default_str();
  command.add_option("--min-p", sampling.min_p, "leave out tokens below this share of the most likely one")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "divides the positive logits of tokens that prompt or answer hold, multiplies the others")
      ->capture_default_str();
  command.add_option("--presence-penalty", sampling.presence_penalty, "taken from the logits of tokens in the answer")
      ->capture_default_str();
  command.add_option("--frequency-penalty", sampling.frequency_penalty, "the same, for each time they are there")
      ->capture_default_str();
  command.add_option("--logit-bias", biases, "ID=X: X is added to the token's logit; may be repeated");
  command.add_option("--seed", sampling.seed, "seed of the random numbers")->capture_default_str();
  command
      .add_option("--speculate", guesses,
                  "tokens guessed a step from what was written before; changes the speed and no token")
      ->check(CLI::Range(0, 32))
      ->capture_default_str();
  command.add_option("--stop", stop, "ends the answer where this text would begin; may be repeated");
}

Sampling SamplingOptions::resolved(int64_t vocab_size) const {
  Sampling result = sampling;
  for (const std::string& bias : biases) {
    const size_t equals = bias.find('=');
    int32_t id = 0;
    float value = 0;
    const bool is_pair = equals != bias.npos && CLI::detail::lexical_cast(bias.substr(0, equals), id) &&
                         CLI::detail::lexical_cast(bias.substr(equals + 1), value);
    if (!is_pair) fail(ErrorKind::invalid_input, "logit bias " + in_quotes(bias) + ": expected ID=NUMBER");
    result.logit_bias.emplace_back(id, value);
  }
  require_valid(result, vocab_size);
  return result;
}

void read_fields(const Json& object, SamplingOptions& o) {
  read_whole(object, "max_tokens", o.max_tokens, uint64_t(kMostTokens));
  if (o.max_tokens == 0) fail(ErrorKind::invalid_input, "max_tokens 0: expected at least 1");
  read_number(object, "temperature", o.sampling.temperature);
  read_whole(object, "top_k", o.sampling.top_k, INT32_MAX);
  read_number(object, "typical_p", o.sampling.typical_p);
  read_number(object, "top_p", o.sampling.top_p);
  read_number(object, "min_p", o.sampling.min_p);
  read_number(object, "repetition_penalty", o.sampling.repetition_penalty);
  read_number(object, "presence_penalty", o.sampling.presence_penalty);
  read_number(object, "frequency_penalty", o.sampling.frequency_penalty);
  read_whole(object, "seed", o.sampling.seed, UINT64_MAX);
  read_stop(object, o.stop);
  read_biases(object, o.biases);
}

bool is_field(const std::string& name) {
  static constexpr const char* kFields[] = {
      "max_tokens",       "temperature",       "top_k", "typical_p", "top_p",     "min_p", "repetition_penalty",
      "presence_penalty", "frequency_penalty", "seed",  "stop",      "logit_bias"};
  return std::find(std::begin(kFields), std::end(kFields), name) != std::end(kFields);
}

std::vector<int32_t> stop_ids_of(const std::vector<int64_t>& eos_token_ids) {
  return {eos_token_ids.begin(), eos_token_ids.end()};
}

}  // namespace fulgur

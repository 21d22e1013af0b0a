// Options of every command that draws tokens.
#pragma once
#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "generate/sequence.h"

namespace fulgur {

struct SamplingOptions {
  Sampling sampling;
  int64_t max_tokens = 256;
  int32_t guesses = 0;
  std::vector<std::string> stop, biases;  // biases: ID=X

  // Adds --max-tokens, --temperature, --top-k, --typical-p, --top-p, --min-p, the penalties, --logit-bias, --seed and
  // --stop.
  void add_to(CLI::App& command);
  // What was asked for, judged. Throws invalid_input naming the option.
  Sampling resolved(int64_t vocab_size) const;
};

// The fields of a request in JSON, named as the options with underscores (`max_tokens`, `stop` as a text or a list,
// `logit_bias` as an object of id to number); what is not given stays. Throws invalid_input naming the field.
void read_fields(const nlohmann::ordered_json& object, SamplingOptions& options);

bool is_field(const std::string& name);  // whether read_fields knows a field of this name

// The ids that end an answer: the model's own.
std::vector<int32_t> stop_ids_of(const std::vector<int64_t>& eos_token_ids);

}  // namespace fulgur

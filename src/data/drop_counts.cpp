#include "data/drop_counts.h"

#include <nlohmann/json.hpp>

#include "text/unicode.h"

namespace fulgur {

std::string Dropped::sample_of(std::string_view text) {
  std::string sample;
  append_valid_utf8(text.substr(0, kSampleBytes), sample);  // a character that the cut divides is left out
  return sample;
}

void DropCounts::add(const DropCounts& later) {
  for (const auto& [rule, dropped] : later.rules) {
    Dropped& sum = rules[rule];
    sum.documents += dropped.documents, sum.bytes += dropped.bytes;
    for (const Dropped::Sample& sample : dropped.samples)
      if (sum.samples.size() < Dropped::kSamples) sum.samples.push_back(sample);
  }
}

nlohmann::ordered_json DropCounts::json() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const auto& [rule, dropped] : rules) {
    nlohmann::ordered_json samples = nlohmann::ordered_json::array();
    for (const Dropped::Sample& s : dropped.samples) samples.push_back({{"origin", s.origin}, {"text", s.text}});
    list.push_back({{"rule", rule}, {"documents", dropped.documents}, {"bytes", dropped.bytes}, {"samples", samples}});
  }
  return list;
}

DropCounts DropCounts::of_json(const nlohmann::ordered_json& list) {
  DropCounts counts;
  for (const auto& entry : list) {
    Dropped& dropped = counts.rules[entry.at("rule").get<std::string>()];
    dropped.documents = entry.at("documents").get<int64_t>(), dropped.bytes = entry.at("bytes").get<int64_t>();
    for (const auto& s : entry.at("samples"))
      dropped.samples.push_back({s.at("origin").get<std::string>(), s.at("text").get<std::string>()});
  }
  return counts;
}

}  // namespace fulgur

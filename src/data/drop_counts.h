// DropCounts: what each rule dropped, with a few samples, as report.json shows it.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

struct Dropped {
  struct Sample {
    std::string origin, text;  // "FILE:NUMBER"; the first 200 bytes
  };
  static constexpr size_t kSamples = 3, kSampleBytes = 200;

  int64_t documents = 0, bytes = 0;
  std::vector<Sample> samples;  // the first ones

  // text is called while samples are wanted.
  template <class Text>
  void add(int64_t document_bytes, const std::string& path, int64_t number, const Text& text) {
    ++documents, bytes += document_bytes;
    if (samples.size() < kSamples) samples.push_back({path + ":" + std::to_string(number), sample_of(text())});
  }
  static std::string sample_of(std::string_view text);
};

struct DropCounts {
  std::map<std::string, Dropped> rules;

  void add(const DropCounts& later);
  nlohmann::ordered_json json() const;
  static DropCounts of_json(const nlohmann::ordered_json& list);
};

}  // namespace fulgur

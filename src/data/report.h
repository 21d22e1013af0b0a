// Report: what the preparation of data did, stage by stage: read from its report.json, told as text for a terminal and
// as one HTML file that needs nothing beside it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

struct DataReport {
  struct Sample {
    std::string origin, text;  // "FILE:DOCUMENT"; the first bytes of what was dropped
  };
  struct Dropped {
    std::string rule;
    int64_t documents = 0, bytes = 0;
    std::vector<Sample> samples;
  };
  struct Stage {
    std::string name;
    double seconds = 0, mb_per_s = 0;
    int64_t documents_in = 0, bytes_in = 0, documents_out = 0, bytes_out = 0;
    std::vector<Dropped> dropped;
  };
  struct Source {
    std::string name;
    double weight = 0;
    int64_t documents = 0, bytes = 0, tokens = 0;
  };
  struct Share {
    std::string name;
    int64_t documents = 0, bytes = 0;
  };
  std::vector<Stage> stages;  // in the order in which they ran
  std::vector<Source> sources;
  std::vector<Share> languages, labels;
  double total_seconds = 0;
  std::string fingerprint;
};

// Throws not_found, and corrupt_file with the field that is missing or has another type.
DataReport read_data_report(const std::filesystem::path& file);

std::string report_text(const DataReport& report);
std::string report_html(const DataReport& report);

// "1,234,567".
std::string grouped(int64_t number);
// "1.23 MB"; powers of ten.
std::string byte_text(int64_t bytes);

}  // namespace fulgur

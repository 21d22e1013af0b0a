#include "data/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/progress.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

// An object of the file; `where` names it in messages.
struct Reader {
  const Json& object;
  std::string where;

  [[noreturn]] void refuse(const char* key, const char* expected) const {
    fail(ErrorKind::corrupt_file, where + "." + key + ": expected " + expected);
  }
  const Json& at(const char* key, const char* expected) const {
    const auto found = object.is_object() ? object.find(key) : object.end();
    if (found == object.end()) refuse(key, expected);
    return *found;
  }
  std::string text(const char* key) const {
    const Json& value = at(key, "a text");
    if (!value.is_string()) refuse(key, "a text");
    return value.get<std::string>();
  }
  double real(const char* key) const {
    const Json& value = at(key, "a number");
    if (!value.is_number()) refuse(key, "a number");
    return value.get<double>();
  }
  int64_t whole(const char* key) const {
    constexpr const char* kExpected = "a whole number from 0";
    const Json& value = at(key, kExpected);
    if (!value.is_number_integer() || value < 0 || value > INT64_MAX) refuse(key, kExpected);
    return value.get<int64_t>();
  }
  template <class Item, class Read>
  std::vector<Item> list(const char* key, const Read& read) const {
    const Json& value = at(key, "a list");
    if (!value.is_array()) refuse(key, "a list");
    std::vector<Item> items;
    for (const Json& item : value)
      items.push_back(read(Reader{item, where + "." + key + "[" + std::to_string(items.size()) + "]"}));
    return items;
  }
};

DataReport::Dropped read_dropped(const Reader& in) {
  return {in.text("rule"), in.whole("documents"), in.whole("bytes"),
          in.list<DataReport::Sample>("samples", [](const Reader& sample) {
            return DataReport::Sample{sample.text("origin"), sample.text("text")};
          })};
}

DataReport::Stage read_stage(const Reader& in) {
  return {in.text("name"),       in.real("seconds"),
          in.real("mb_per_s"),   in.whole("documents_in"),
          in.whole("bytes_in"),  in.whole("documents_out"),
          in.whole("bytes_out"), in.list<DataReport::Dropped>("dropped", read_dropped)};
}

DataReport::Source read_source(const Reader& in) {
  return {in.text("name"), in.real("weight"), in.whole("documents"), in.whole("bytes"), in.whole("tokens")};
}

DataReport::Share read_share(const Reader& in) { return {in.text("name"), in.whole("documents"), in.whole("bytes")}; }

std::string printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Lines whose columns are as wide as their widest cell; the first column starts at the left, the others end at the
// right.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  const auto columns = [](const std::string& cell) {
    return size_t(std::count_if(cell.begin(), cell.end(), [](char c) { return (uint8_t(c) & 0xC0) != 0x80; }));
  };
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - columns(row[i]), ' ');
      text += i == 0 ? "  " + row[i] + (row.size() > 1 ? space : "") : "  " + space + row[i];
    }
    text += '\n';
  }
  return text;
}

std::string shares_text(const char* title, const std::vector<DataReport::Share>& shares) {
  if (shares.empty()) return {};
  std::vector<std::vector<std::string>> rows{{title, "documents", "bytes"}};
  for (const auto& share : shares) rows.push_back({share.name, grouped(share.documents), byte_text(share.bytes)});
  return "\n" + table(rows);
}

}  // namespace

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > (number < 0 ? 4u : 3u);) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string byte_text(int64_t bytes) {
  return bytes < 1000 ? std::to_string(bytes) + " B" : short_number(double(bytes)) + "B";
}

DataReport read_data_report(const std::filesystem::path& file) {
  const Json json = parse_object(read_text(file), file.string());
  const Reader in{json, file.string() + ": report"};
  return {in.list<DataReport::Stage>("stages", read_stage),
          in.list<DataReport::Source>("sources", read_source),
          in.list<DataReport::Share>("languages", read_share),
          in.list<DataReport::Share>("labels", read_share),
          in.real("total_seconds"),
          in.text("fingerprint")};
}

std::string report_text(const DataReport& report) {
  std::string text = "prepared data " + report.fingerprint + " in " + short_time(report.total_seconds) + "\n\n";
  std::vector<std::vector<std::string>> rows{{"stage", "documents in", "out", "text in", "out", "rate", "time"}};
  for (const auto& stage : report.stages)
    rows.push_back({stage.name, grouped(stage.documents_in), grouped(stage.documents_out), byte_text(stage.bytes_in),
                    byte_text(stage.bytes_out), printed("%.1f MB/s", stage.mb_per_s), short_time(stage.seconds)});
  text += table(rows);
  rows = {{"dropped by", "documents", "text", "of its stage"}};
  for (const auto& stage : report.stages)
    for (const auto& rule : stage.dropped)
      rows.push_back({stage.name + ": " + rule.rule, grouped(rule.documents), byte_text(rule.bytes),
                      printed("%.2f %%", 100 * double(rule.bytes) / double(std::max<int64_t>(stage.bytes_in, 1)))});
  if (rows.size() > 1) text += "\n" + table(rows);
  rows = {{"source", "weight", "documents", "text", "tokens"}};
  for (const auto& source : report.sources)
    rows.push_back({source.name, printed("%.3g", source.weight), grouped(source.documents), byte_text(source.bytes),
                    grouped(source.tokens)});
  if (rows.size() > 1) text += "\n" + table(rows);
  return text + shares_text("language", report.languages) + shares_text("label", report.labels);
}

}  // namespace fulgur

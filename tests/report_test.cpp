// The report of a preparation: what is read is judged field by field, what is shown is complete and escaped.
#include "data/report.h"

#include <nlohmann/json.hpp>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

using Json = nlohmann::ordered_json;

Json sample_report() {
  const Json sample = {{"origin", "raw/<a>.txt:7"}, {"text", "<script>alert(\"x\")</script> & 'y'\n\x01\x7f中"}};
  const Json rule = {{"rule", "too_short"}, {"documents", 1234}, {"bytes", 250'000}, {"samples", {sample, sample}}};
  const Json stage = {
      {"name", "clean"},       {"seconds", 2.5},          {"mb_per_s", 0.4},      {"documents_in", 20'000},
      {"bytes_in", 1'000'000}, {"documents_out", 18'766}, {"bytes_out", 750'000}, {"dropped", Json::array({rule})}};
  return {{"stages", Json::array({stage})},
          {"sources",
           Json::array({{{"name", "english"}, {"weight", 0.25}, {"documents", 9}, {"bytes", 8}, {"tokens", 7}}})},
          {"languages", Json::array({{{"name", "zh"}, {"documents", 6}, {"bytes", 5}}})},
          {"labels", Json::array()},
          {"total_seconds", 65.0},
          {"fingerprint", "0123456789abcdef"}};
}

DataReport read(const Json& json) {
  const Scratch scratch;
  spill(scratch / "report.json", json.dump());
  return read_data_report(scratch / "report.json");
}

void expect_all(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& word : words) EXPECT_NE(text.find(word), text.npos) << word << " in:\n" << text;
}

TEST(Report, text_tells_every_stage_rule_and_source) {
  const std::string text = report_text(read(sample_report()));
  expect_all(text, {"0123456789abcdef in 1 min 05 s", "clean", "20,000", "18,766", "1.00 MB", "750 kB", "0.4 MB/s",
                    "clean: too_short", "1,234", "25.00 %", "english", "0.25", "zh"});
  EXPECT_EQ(text.find("label"), text.npos);
}

TEST(Report, html_escapes_what_the_texts_say) {
  const std::string html = report_html(read(sample_report()));
  expect_all(html, {"<!DOCTYPE html>", "prefers-color-scheme: dark", "too_short", "2 samples", "raw/&lt;a&gt;.txt:7",
                    "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;y&#39;\n␁␡中", "width:75.0%",
                    "width:25.0%"});
  for (const char* never : {"<script", "http://", "https://", "\x01", "\x7f"})
    EXPECT_EQ(html.find(never), html.npos) << never;
  for (const char* tag :
       {"div", "table", "tr", "td", "th", "details", "summary", "figure", "pre", "p", "h2", "section"}) {
    size_t opened = 0, closed = 0;
    const std::string open = std::string("<") + tag, close = std::string("</") + tag + ">";
    for (size_t at = 0; (at = html.find(open, at)) != html.npos; ++at)
      opened += html[at + open.size()] == '>' || html[at + open.size()] == ' ';
    for (size_t at = 0; (at = html.find(close, at)) != html.npos; ++at) ++closed;
    EXPECT_EQ(opened, closed) << tag;
  }
}

TEST(Report, nothing_dropped_and_nothing_at_all) {
  Json json = sample_report();
  json["stages"][0]["dropped"] = Json::array();
  expect_all(report_html(read(json)), {"Nothing was dropped."});
  json["stages"] = json["sources"] = json["languages"] = Json::array();
  expect_all(report_html(read(json)), {"</html>"});
  expect_all(report_text(read(json)), {"0123456789abcdef"});
}

TEST(Report, a_field_that_is_missing_or_no_such_thing_is_named) {
  const auto refused = [](const std::function<void(Json&)>& damage, const std::string& word) {
    Json json = sample_report();
    damage(json);
    expect_error(ErrorKind::corrupt_file, {"report.json", word}, [&] { read(json); });
  };
  refused([](Json& j) { j.erase("stages"); }, "report.stages: expected a list");
  refused([](Json& j) { j["stages"][0]["bytes_in"] = -1; }, "report.stages[0].bytes_in: expected a whole number");
  refused([](Json& j) { j["stages"][0]["dropped"][0]["rule"] = 3; }, "stages[0].dropped[0].rule: expected a text");
  refused([](Json& j) { j["sources"][0] = 3; }, "sources[0].name");
  refused([](Json& j) { j["total_seconds"] = "long"; }, "total_seconds: expected a number");
  expect_error(ErrorKind::not_found, {"nowhere"}, [] { read_data_report("/nowhere/report.json"); });
}

TEST(Report, numbers) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1'234'567), "1,234,567");
  EXPECT_EQ(grouped(-123'456), "-123,456");
  EXPECT_EQ(byte_text(999), "999 B");
  EXPECT_EQ(byte_text(1'234'567), "1.23 MB");
}

}  // namespace
}  // namespace fulgur::tests

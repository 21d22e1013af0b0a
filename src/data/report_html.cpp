// The report as one HTML file: bars are boxes with a width in per cent, samples open without a script.
#include <algorithm>
#include <cstdio>

#include "base/progress.h"
#include "data/report.h"
#include "text/unicode.h"

namespace fulgur {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #ffffff; --ink: #1d2024; --soft: #5f666e; --line: #e3e3dd;
  --track: #ecece6; --kept: #2b6c9c; --lost: #c1622f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1b1e23; --ink: #e6e8eb; --soft: #9ba2ab;
  --line: #2d3239; --track: #272c33; --kept: #62a8db; --lost: #e08a58; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .3rem; }
h2 { font-size: 1.12rem; margin: 2.8rem 0 .8rem; }
p { margin: .2rem 0; } .soft, small { color: var(--soft); }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .86em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.6rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.3; letter-spacing: -.01em; }
table { width: 100%; border-collapse: collapse; }
th { font-weight: 500; color: var(--soft); font-size: .84rem; text-align: right; vertical-align: bottom; }
td { text-align: right; white-space: nowrap; } th, td { padding: .42rem 0 .42rem 1.1rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
td.wide { width: 38%; }
.bar { display: flex; height: .72rem; border-radius: 3px; overflow: hidden; background: var(--track); }
.bar i { display: block; min-width: 2px; background: var(--kept); } .bar i.lost { background: var(--lost); }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin: 0 .35rem 0 1rem; vertical-align: -.05rem;
  background: var(--kept); }
.key:first-child { margin-left: 0; } .key.lost { background: var(--lost); } .key.gone { background: var(--track); }
.rule { padding: .55rem 0; border-bottom: 1px solid var(--line); }
.rule.head { color: var(--soft); font-size: .84rem; font-weight: 500; padding: .2rem 0 .42rem; }
.line { display: grid; grid-template-columns: 17rem 1fr 5.5rem 5rem 5.5rem; gap: 1.1rem; align-items: center; }
.line > div:nth-child(n + 3) { text-align: right; } small { font-size: .84rem; }
details { margin-top: .15rem; } summary { cursor: pointer; color: var(--soft); font-size: .84rem; width: fit-content; }
figure { margin: .5rem 0 .6rem; } figcaption { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
pre { margin: .2rem 0 0; padding: .6rem .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); column-gap: 3rem; }
@media (max-width: 46rem) { .line { grid-template-columns: 1fr 4.5rem 4.5rem 4rem; gap: .6rem; }
  .line > div:nth-child(2), .wide { display: none; } .pair { grid-template-columns: 1fr; } th, td { padding-left: .6rem; } }
)";

// Text as HTML shows it: valid UTF-8, what has a meaning in HTML written out, control characters as their pictures.
std::string escaped(std::string_view text) {
  std::string html;
  for (const char c : to_valid_utf8(text)) {
    if (c == '&') html += "&amp;";
    else if (c == '<') html += "&lt;";
    else if (c == '>') html += "&gt;";
    else if (c == '"') html += "&quot;";
    else if (c == '\'') html += "&#39;";
    else if (uint8_t(c) < 0x20 && c != '\n' && c != '\t') (html += "\xE2\x90") += char(0x80 + c);
    else if (c == 0x7F) html += "\xE2\x90\xA1";
    else html += c;
  }
  return html;
}

std::string element(const char* tag, const std::string& inside, const char* of_class = nullptr) {
  const std::string attribute = of_class ? std::string(" class=\"") + of_class + '"' : "";
  return std::string("<") + tag + attribute + ">" + inside + "</" + tag + ">";
}

std::string percent(double part, double whole) {
  char text[32];
  const double share = whole > 0 ? 100 * part / whole : 0;
  std::snprintf(text, sizeof text, share > 0 && share < 0.1 ? "%.2f" : "%.1f", share);
  return text;
}

// One part of a bar; nothing where there is nothing to show.
std::string part(double value, double whole, const char* of_class = "") {
  if (!(value > 0)) return {};
  return std::string("<i class=\"") + of_class + "\" style=\"width:" + percent(value, whole) + "%\"></i>";
}

std::string bar(const std::string& parts) { return element("div", parts, "bar"); }

std::string row(const std::vector<std::string>& cells, const char* tag = "td") {
  std::string html;
  for (const std::string& cell : cells)
    html += element(tag, cell, cell.rfind("<div class=\"bar\"", 0) == 0 ? "wide" : nullptr);
  return element("tr", html) + "\n";
}

std::string tile(const std::string& what, const std::string& value, const std::string& note) {
  return element("div", what + element("b", value) + element("small", note), "tile") + "\n";
}

std::string header(const DataReport& report) {
  std::string html = element("h1", "Prepared data");
  html += element("p", "Fingerprint " + element("code", escaped(report.fingerprint)), "soft") + "\n";
  int64_t tokens = 0, bytes = 0;
  for (const auto& source : report.sources) tokens += source.tokens, bytes += source.bytes;
  std::string tiles;
  if (!report.stages.empty()) {
    const auto &first = report.stages.front(), &last = report.stages.back();
    tiles += tile("Documents kept", grouped(last.documents_out), "of " + grouped(first.documents_in));
    tiles +=
        tile("Text kept", byte_text(last.bytes_out),
             "of " + byte_text(first.bytes_in) + ", " + percent(double(last.bytes_out), double(first.bytes_in)) + " %");
  }
  char ratio[48];
  std::snprintf(ratio, sizeof ratio, "%.2f bytes a token", tokens > 0 ? double(bytes) / double(tokens) : 0);
  tiles += tile("Training tokens", short_number(double(tokens)), ratio);
  tiles += tile("Time", short_time(report.total_seconds), std::to_string(report.stages.size()) + " stages");
  return html + element("div", tiles, "tiles") + "\n";
}

std::string stages(const DataReport& report) {
  if (report.stages.empty()) return {};
  const double whole = double(std::max<int64_t>(report.stages.front().bytes_in, 1));
  std::string html = row(
      {"Stage", "<div class=\"bar\" style=\"visibility:hidden\"></div>", "Documents out", "Text out", "Rate", "Time"},
      "th");
  for (const auto& stage : report.stages) {
    char rate[32];
    std::snprintf(rate, sizeof rate, "%.1f MB/s", stage.mb_per_s);
    html +=
        row({escaped(stage.name),
             bar(part(double(stage.bytes_out), whole) + part(double(stage.bytes_in - stage.bytes_out), whole, "lost")),
             grouped(stage.documents_out), byte_text(stage.bytes_out), rate, short_time(stage.seconds)});
  }
  const std::string key =
      "<span class=\"key\"></span>kept<span class=\"key lost\"></span>dropped here<span class=\"key "
      "gone\"></span>dropped before";
  return element("h2", "Stages") + element("p", key, "soft") + element("table", html) + "\n";
}

std::string samples(const DataReport::Dropped& rule) {
  if (rule.samples.empty()) return {};
  std::string html =
      element("summary", rule.samples.size() == 1 ? "1 sample" : std::to_string(rule.samples.size()) + " samples");
  for (const auto& sample : rule.samples)
    html += element("figure", element("figcaption", escaped(sample.origin)) + element("pre", escaped(sample.text)));
  return element("details", html);
}

// A rule's name, bar and numbers, side by side.
std::string rule_line(const std::vector<std::string>& cells) {
  std::string html;
  for (const std::string& cell : cells) html += element("div", cell);
  return element("div", html, "line");
}

std::string dropped(const DataReport& report) {
  double most = 1;
  for (const auto& stage : report.stages)
    for (const auto& rule : stage.dropped) most = std::max(most, double(rule.bytes));
  std::string html;
  for (const auto& stage : report.stages) {
    for (const auto& rule : stage.dropped) {
      const std::string line =
          rule_line({escaped(rule.rule) + " " + element("small", escaped(stage.name)),
                     bar(part(double(rule.bytes), most, "lost")), grouped(rule.documents), byte_text(rule.bytes),
                     percent(double(rule.bytes), double(stage.bytes_in)) + " %"});
      html += element("div", line + samples(rule), "rule") + "\n";
    }
  }
  if (html.empty()) return element("h2", "Dropped, by rule") + element("p", "Nothing was dropped.", "soft");
  const std::string head = rule_line({"Rule and stage", "", "Documents", "Text", "Of its stage"});
  return element("h2", "Dropped, by rule") + element("div", head, "rule head") + "\n" + html;
}

std::string sources(const DataReport& report) {
  if (report.sources.empty()) return {};
  double most = 1;
  for (const auto& source : report.sources) most = std::max(most, double(source.tokens));
  std::string html =
      row({"Source", "Weight", "Documents", "Text", "Tokens", "<div class=\"bar\" style=\"visibility:hidden\"></div>"},
          "th");
  for (const auto& source : report.sources) {
    char weight[32];
    std::snprintf(weight, sizeof weight, "%.3g", source.weight);
    html += row({escaped(source.name), weight, grouped(source.documents), byte_text(source.bytes),
                 grouped(source.tokens), bar(part(double(source.tokens), most))});
  }
  return element("h2", "Sources") + element("table", html) + "\n";
}

std::string shares(const char* title, const std::vector<DataReport::Share>& all) {
  if (all.empty()) return {};
  double most = 1;
  for (const auto& share : all) most = std::max(most, double(share.bytes));
  std::string html;
  for (const auto& share : all)
    html += row(
        {escaped(share.name), bar(part(double(share.bytes), most)), grouped(share.documents), byte_text(share.bytes)});
  const std::string head =
      row({"", "<div class=\"bar\" style=\"visibility:hidden\"></div>", "Documents", "Text"}, "th");
  return element("section", element("h2", title) + element("table", head + html)) + "\n";
}

}  // namespace

std::string report_html(const DataReport& report) {
  std::string html = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Prepared data</title>\n";
  html += element("style", kStyle) + "\n</head>\n<body>\n" + header(report) + stages(report) + dropped(report);
  html += sources(report);
  html += element("div", shares("Languages", report.languages) + shares("Quality labels", report.labels), "pair");
  return html + "\n</body>\n</html>\n";
}

}  // namespace fulgur

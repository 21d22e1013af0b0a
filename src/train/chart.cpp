#include "train/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

#include "base/progress.h"

namespace fulgur {
namespace {

// Pixels.
constexpr double kWidth = 1200, kGap = 24, kHead = 84, kLegendLine = 24, kPanelHeight = 260;
constexpr double kPanelWidth = (kWidth - 3 * kGap) / 2;
constexpr double kLeft = 56, kRight = 110, kTop = 40, kBottom = 40;  // of a panel, around its plot
constexpr double kLabelHeight = 14;
constexpr size_t kLabelLetters = 14;
constexpr double kLogSpread = 30;

constexpr const char* kStyle = R"(<style>
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-size:12px;fill:#5b6470}
.ground{fill:#ffffff}.card{fill:#fbfbfc;stroke:#e3e6ea}
.head{font-size:20px;font-weight:600;fill:#1b1f24}.name{font-size:14px;font-weight:600;fill:#1b1f24}
.grid{stroke:#e3e6ea;stroke-width:1}.axis{stroke:#b4bbc4;stroke-width:1}
.end{text-anchor:end}.middle{text-anchor:middle}
polyline{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:1;stroke-opacity:.28}
.alarm{fill:#c8321e}
.run0{stroke:#2463c4}.run1{stroke:#d1570f}.run2{stroke:#16855a}.run3{stroke:#9a3aa6}
.run4{stroke:#a87b00}.run5{stroke:#c12f5d}.run6{stroke:#0f8595}.run7{stroke:#6a6f78}
.depth0{stroke:#8fbdf0}.depth1{stroke:#76a9e6}.depth2{stroke:#5d95da}.depth3{stroke:#4682cd}
.depth4{stroke:#326fbd}.depth5{stroke:#235da9}.depth6{stroke:#174a8e}.depth7{stroke:#0d3570}
@media (prefers-color-scheme:dark){
text{fill:#9aa4b0}
.ground{fill:#0f1216}.card{fill:#161a20;stroke:#2a3038}
.head,.name{fill:#eef1f5}
.grid{stroke:#2a3038}.axis{stroke:#4a525d}
.faint{stroke-opacity:.34}
.alarm{fill:#ff7a66}
.run0{stroke:#74a9ff}.run1{stroke:#ff9a57}.run2{stroke:#4fcf9b}.run3{stroke:#d58be0}
.run4{stroke:#e2bb4a}.run5{stroke:#ff7fa4}.run6{stroke:#4fc8d8}.run7{stroke:#b3bac4}
.depth0{stroke:#2f5d96}.depth1{stroke:#3b6fae}.depth2{stroke:#4a82c5}.depth3{stroke:#5c95d8}
.depth4{stroke:#74a8e5}.depth5{stroke:#8fbbef}.depth6{stroke:#adcef7}.depth7{stroke:#cfe3ff}
}
</style>
)";

std::string printed(const char* format, double a, double b = 0, double c = 0, double d = 0) {
  char text[160];
  std::snprintf(text, sizeof text, format, a, b, c, d);
  return text;
}

std::string text_at(double x, double y, const std::string& classes, const std::string& text) {
  return printed("<text x=\"%.1f\" y=\"%.1f\"", x, y) + (classes.empty() ? "" : " class=\"" + classes + "\"") + ">" +
         xml_escaped(text) + "</text>\n";
}

// Of one of `all`: "0.25" where they are 0.05 apart, "5 k" where they reach ten thousand.
std::string tick_text(double value, const std::vector<double>& all) {
  if (value == 0) return "0";
  if (std::fabs(value) < 1e-4) return printed("%.3g", value);
  if (std::fabs(all.back()) >= 1e4 && std::fabs(value) >= 1e3) {
    const int prefix = value >= 1e12 ? 4 : value >= 1e9 ? 3 : value >= 1e6 ? 2 : 1;
    constexpr const char* kPrefix[] = {"", " k", " M", " G", " T"};
    return printed("%.4g", value / std::pow(1000.0, prefix)) + kPrefix[prefix];
  }
  const bool even = all.size() > 2 && std::fabs(all[2] - 2 * all[1] + all[0]) < 1e-6 * std::fabs(all[2]);
  const double apart = even ? all[1] - all[0] : std::fabs(value);
  char text[40];
  std::snprintf(text, sizeof text, "%.*f", std::clamp(int(std::ceil(-std::log10(apart) - 1e-9)), 0, 6), value);
  return text;
}

// What maps values to pixels.
struct Scale {
  double low, high, from, to;  // pixels `from` at `low`
  bool logarithmic = false;
  double operator()(double value) const {
    const double share = logarithmic ? (std::log(value) - std::log(low)) / (std::log(high) - std::log(low))
                                     : (value - low) / (high - low);
    return from + (to - from) * share;
  }
};

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void add(double value) {
    if (std::isfinite(value)) low = std::min(low, value), high = std::max(high, value);
  }
  bool empty() const { return !(low <= high); }
};

Scale x_scale(const Chart& chart, double from, double to) {
  Range range;
  for (const ChartPanel& panel : chart.panels)
    for (const ChartLine& line : panel.lines)
      for (const ChartPoint& p : line.points) range.add(p.x);
  if (range.empty()) range.low = 0, range.high = 1;
  if (range.low > 0 && range.low < 0.1 * range.high) range.low = 0;  // a run begins at zero
  if (range.low == range.high) range.high += 1;
  return {range.low, range.high, from, to};
}

Scale y_scale(const ChartPanel& panel, double from, double to) {
  Range range;
  for (const ChartLine& line : panel.lines)
    for (const ChartPoint& p : line.points) range.add(p.y);
  if (range.empty()) range.low = 0, range.high = 1;
  if (range.low > 0 && range.high > kLogSpread * range.low)
    return {range.low / 1.15, range.high * 1.15, from, to, true};
  const double span = range.high - range.low;
  if (span == 0)
    return {range.low - (range.low == 0 ? 0 : std::fabs(range.low) / 2),
            range.high + std::max(std::fabs(range.high) / 2, 1e-12), from, to};
  const bool from_zero = range.low >= 0 && range.low < 0.35 * range.high;
  return {from_zero ? 0 : range.low - 0.06 * span, range.high + 0.06 * span, from, to};
}

// The line, or where points are denser than pixels its extremes in each.
std::vector<ChartPoint> thinned(const std::vector<ChartPoint>& points, const Scale& x) {
  const auto pixels = size_t(std::fabs(x.to - x.from));
  if (points.size() <= 2 * pixels) return points;
  std::vector<ChartPoint> kept;
  for (size_t begin = 0, end; begin < points.size(); begin = end) {
    const double pixel = std::floor(x(points[begin].x));
    for (end = begin + 1; end < points.size() && std::floor(x(points[end].x)) == pixel;) ++end;
    const auto [low, high] = std::minmax_element(points.begin() + long(begin), points.begin() + long(end),
                                                 [](const auto& a, const auto& b) { return a.y < b.y; });
    kept.push_back(low < high ? *low : *high);
    if (low != high) kept.push_back(low < high ? *high : *low);
  }
  return kept;
}

std::string drawn(const ChartLine& line, const Scale& x, const Scale& y) {
  std::string svg;
  if (line.style == ChartLine::Style::dots) {
    for (const ChartPoint& p : line.points)
      if (std::isfinite(p.y))
        svg += "<circle class=\"" + line.color +
               printed("\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"none\" stroke-width=\"2\"/>\n", x(p.x), y(p.y));
  }
  const std::string open = std::string("<polyline class=\"") + line.color +
                           (line.style == ChartLine::Style::faint ? " faint" : "") + "\" points=\"";
  std::string points;
  const auto close = [&] {
    if (!points.empty()) svg += open + points + "\"/>\n";
    points.clear();
  };
  for (const ChartPoint& p : thinned(line.points, x)) {
    if (!std::isfinite(p.y)) close();
    else points += (points.empty() ? "" : " ") + printed("%.1f,%.1f", x(p.x), y(p.y));
  }
  close();
  return svg;
}

// The first letters of UTF-8 text, where it has more than fit beside a plot.
std::string fitted(const std::string& text) {
  size_t letters = 0;
  for (size_t i = 0; i < text.size(); ++i)
    if ((text[i] & 0xc0) != 0x80 && ++letters > kLabelLetters) return text.substr(0, i) + "…";
  return text;
}

// Labels at the right ends, moved apart where they would touch, with their line's colour where there are several.
std::string labels(const ChartPanel& panel, const Scale& y, double left) {
  struct Label {
    double at;
    std::string text, color;
  };
  std::vector<Label> all;
  for (const ChartLine& line : panel.lines) {
    const auto last =
        std::find_if(line.points.rbegin(), line.points.rend(), [](const ChartPoint& p) { return std::isfinite(p.y); });
    if (!line.label.empty() && last != line.points.rend()) all.push_back({y(last->y), fitted(line.label), line.color});
  }
  std::stable_sort(all.begin(), all.end(), [](const Label& a, const Label& b) { return a.at < b.at; });
  for (size_t i = 1; i < all.size(); ++i) all[i].at = std::max(all[i].at, all[i - 1].at + kLabelHeight);
  double lowest = y.from - 4;
  for (size_t i = all.size(); i-- > 0; lowest = all[i].at - kLabelHeight) all[i].at = std::min(all[i].at, lowest);
  std::string svg;
  for (const Label& label : all) {
    if (all.size() > 1)
      svg += "<polyline class=\"" + label.color +
             printed("\" points=\"%.1f,%.1f %.1f,%.1f\"/>\n", left, label.at, left + 8, label.at);
    svg += text_at(left + (all.size() > 1 ? 13 : 2), label.at + 4, "", label.text);
  }
  return svg;
}

std::string axes(const Scale& x, const Scale& y, const std::string& x_name) {
  std::string svg;
  const std::vector<double> rows = y.logarithmic ? round_log_ticks(y.low, y.high) : round_ticks(y.low, y.high, 5);
  for (const double value : rows) {
    svg += printed("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", x.from, x.to, y(value),
                   y(value)) +
           text_at(x.from - 8, y(value) + 4, "end", tick_text(value, rows));
  }
  svg +=
      printed("<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", x.from, x.to, y.from, y.from);
  const std::vector<double> columns = round_ticks(x.low, x.high, 6);
  for (const double value : columns) svg += text_at(x(value), y.from + 16, "middle", tick_text(value, columns));
  return svg + text_at(x.to + kRight - 14, y.from + 16, "end", x_name);
}

std::string drawn(const Chart& chart, const ChartPanel& panel, double left, double top) {
  const Scale x = x_scale(chart, left + kLeft, left + kPanelWidth - kRight);
  const Scale y = y_scale(panel, top + kPanelHeight - kBottom, top + kTop);
  std::string svg = printed("<rect class=\"card\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"6\"/>\n",
                            left, top, kPanelWidth, kPanelHeight) +
                    printed("<text x=\"%.1f\" y=\"%.1f\"><tspan class=\"name\">", left + 14, top + 24) +
                    xml_escaped(panel.title) + "</tspan>" +
                    (panel.unit.empty() ? "" : "<tspan dx=\"8\">" + xml_escaped(panel.unit) + "</tspan>") + "</text>\n";
  svg += axes(x, y, chart.x_name);
  for (const ChartLine& line : panel.lines) svg += drawn(line, x, y);
  for (const ChartMark& mark : panel.marks)
    svg += printed("<path class=\"alarm\" d=\"M%.1f %.1f l-5 9 h10 z\">", x(mark.x), y.from - 9) + "<title>" +
           xml_escaped(mark.text) + "</title></path>\n";
  return svg + labels(panel, y, x.to + 6);
}

std::string legend(const Chart& chart, double top) {
  std::string svg;
  double x = kGap;
  for (const auto& [label, color] : chart.legend) {
    svg += "<polyline class=\"" + color +
           printed("\" points=\"%.1f,%.1f %.1f,%.1f\"/>\n", x, top - 4, x + 22, top - 4) +
           text_at(x + 28, top, "", label);
    x += 28 + 7.5 * double(label.size()) + 24;
  }
  return svg;
}

}  // namespace

std::string xml_escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&') escaped += "&amp;";
    else if (c == '<') escaped += "&lt;";
    else if (c == '>') escaped += "&gt;";
    else if (c == '"') escaped += "&quot;";
    else escaped += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return escaped;
}

std::vector<double> round_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  if (!(low < high)) return {low};
  double power = std::pow(10.0, std::floor(std::log10((high - low) / most)) - 1);
  for (int i = 0;; ++i) {
    const double apart = power * (i % 3 == 0 ? 1 : i % 3 == 1 ? 2 : 5);
    if (i % 3 == 2) power *= 10;
    const double first = std::ceil(low / apart - 1e-9), last = std::floor(high / apart + 1e-9);
    if (last - first + 1 > most) continue;
    for (double n = first; n <= last; ++n) ticks.push_back(n * apart + 0.0);  // no -0
    return ticks;
  }
}

std::vector<double> round_log_ticks(double low, double high) {
  std::vector<double> ticks;
  const double decades = std::log10(high / low);
  const int every = std::max(1, int(std::ceil(decades / 6)));
  for (int power = int(std::floor(std::log10(low))); power <= int(std::ceil(std::log10(high))); ++power)
    for (const double times : {1.0, 2.0, 5.0}) {
      const double value = times * std::pow(10.0, power);
      const bool shown = times == 1 ? power % every == 0 : decades < 2;
      if (shown && value >= low && value <= high) ticks.push_back(value);
    }
  return ticks;
}

std::string svg_of(const Chart& chart) {
  const double head = kHead + (chart.legend.empty() ? 0 : kLegendLine);
  const double height = head + double((chart.panels.size() + 1) / 2) * (kPanelHeight + kGap);
  std::string svg = printed(
                        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
                        "viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n",
                        kWidth, height, kWidth, height) +
                    "<title>" + xml_escaped(chart.title) + "</title>\n" + kStyle +
                    printed("<rect class=\"ground\" width=\"%.0f\" height=\"%.0f\"/>\n", kWidth, height) +
                    text_at(kGap, 38, "head", chart.title) + text_at(kGap, 62, "", chart.subtitle);
  if (!chart.legend.empty()) svg += legend(chart, 62 + kLegendLine);
  for (size_t i = 0; i < chart.panels.size(); ++i)
    svg += drawn(chart, chart.panels[i], kGap + double(i % 2) * (kPanelWidth + kGap),
                 head + double(i / 2) * (kPanelHeight + kGap));
  return svg + "</svg>\n";
}

}  // namespace fulgur

// Charts: panels of lines over one kind of x, as an SVG document that follows the reader's light or dark scheme.
#pragma once
#include <string>
#include <vector>

namespace fulgur {

struct ChartPoint {
  double x, y;
  bool operator==(const ChartPoint&) const = default;
};

struct ChartLine {
  enum class Style { line, faint, dots };
  std::string label;  // at its right end; empty: none
  std::string color;  // a class: run0 ... run7, or depth0 ... depth7, a ramp
  Style style = Style::line;
  std::vector<ChartPoint> points;  // x ascending; a y that is not finite parts the line
};

struct ChartMark {
  double x;
  std::string text;  // shown by the reader's pointer
};

struct ChartPanel {
  std::string title, unit;
  std::vector<ChartLine> lines;
  std::vector<ChartMark> marks = {};
};

struct Chart {
  std::string title, subtitle, x_name;
  std::vector<std::pair<std::string, std::string>> legend;  // label and color, where there are several
  std::vector<ChartPanel> panels;
};

// A panel's y is logarithmic where its values are positive and spread over more than a factor 30. Lines of more points
// than a panel has pixels keep the extremes of every pixel.
std::string svg_of(const Chart& chart);

// Round values inside [low, high], at most `most`: 1, 2 or 5 times a power of ten apart.
std::vector<double> round_ticks(double low, double high, int most);
// Powers of ten inside [low, high], with 2 and 5 times them where these are few.
std::vector<double> round_log_ticks(double low, double high);

// Text between tags or in an attribute.
std::string xml_escaped(const std::string& text);

}  // namespace fulgur

// Curves of runs from fixed files: where the lines go, what is escaped, round ticks; a folder's runs at a glance.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/scratch.h"
#include "train/run_plot.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;

fs::path run_of(const Scratch& scratch, const std::string& name, const std::string& metrics) {
  const fs::path dir = scratch / name;
  fs::create_directories(dir);
  spill(dir / "metrics.jsonl", metrics);
  return dir;
}

std::string step_line(int64_t step, double loss) {
  const auto n = [](double x) { return std::to_string(x); };
  return "{\"step\": " + std::to_string(step) + ", \"loss\": " + n(loss) +
         ", \"lr\": 0.5, \"tokens\": " + n(double(step * 100)) +
         ", \"tokens_per_second\": 50, \"seconds\": " + n(double(2 * step)) +
         ", \"time\": " + n(double(1000 + 2 * step)) + "}\n";
}

size_t count_of(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(Chart, puts_points_where_they_belong) {
  Chart chart{.title = "a", .subtitle = "", .x_name = "steps", .legend = {}, .panels = {}};
  chart.panels.push_back(
      {"P", "u", {{"end", "run0", ChartLine::Style::line, {{0, 0}, {1, 50}, {2, NAN}, {3, 25}, {4, 100}}}}});
  const std::string svg = svg_of(chart);
  // The panel: 564 wide at (24, 84); the plot from x 80 to 478 and from y 304 (zero) up to 124 (106: six hundredths
  // more).
  EXPECT_NE(svg.find("<polyline class=\"run0\" points=\"80.0,304.0 179.5,219.1\"/>"), svg.npos) << svg;
  EXPECT_NE(svg.find("<polyline class=\"run0\" points=\"378.5,261.5 478.0,134.2\"/>"), svg.npos) << svg;
  EXPECT_EQ(count_of(svg, "<polyline"), 2u);
  EXPECT_NE(svg.find(">end</text>"), svg.npos);
  EXPECT_NE(svg.find("prefers-color-scheme:dark"), svg.npos);
  for (const char* tick : {">0</text>", ">50</text>", ">100</text>"}) EXPECT_NE(svg.find(tick), svg.npos) << tick;
}

TEST(Chart, is_logarithmic_where_values_spread) {
  Chart chart{.title = "", .subtitle = "", .x_name = "", .legend = {}, .panels = {}};
  chart.panels.push_back(
      {"", "", {{"ein überlanger Name", "run0", ChartLine::Style::line, {{0, 1}, {1, 10}, {2, 100}}}}});
  const std::string svg = svg_of(chart);
  EXPECT_NE(svg.find(",214.0 "), svg.npos) << "the geometric mean in the middle: " << svg;
  EXPECT_NE(svg.find(">ein überlanger…</text>"), svg.npos) << svg;
}

TEST(Chart, keeps_the_extremes_of_dense_lines) {
  Chart chart{.title = "", .subtitle = "", .x_name = "", .legend = {}, .panels = {}};
  ChartLine line{"", "run0", ChartLine::Style::line, {}};
  for (int i = 0; i <= 100000; ++i) line.points.push_back({double(i), i == 54321 ? 7.0 : 1.0 + i % 2});
  chart.panels.push_back({"", "", {line}});
  const std::string svg = svg_of(chart);
  EXPECT_LT(svg.size(), 30000u);
  const double top = 304 - 180 * 7 / (7 + 0.06 * 6);
  char text[16];
  std::snprintf(text, sizeof text, ",%.1f", top);
  EXPECT_NE(svg.find(text), svg.npos) << "the spike is there";
}

TEST(Chart, round_ticks) {
  EXPECT_EQ(round_ticks(0, 100, 6), (std::vector<double>{0, 20, 40, 60, 80, 100}));
  EXPECT_EQ(round_ticks(-1, 1.2, 5), (std::vector<double>{-1, -0.5, 0, 0.5, 1}));
  EXPECT_EQ(round_ticks(3, 3, 5), std::vector<double>{3});
  EXPECT_EQ(round_log_ticks(0.9, 60), (std::vector<double>{1, 2, 5, 10, 20, 50}));
  EXPECT_EQ(round_log_ticks(0.5, 2000), (std::vector<double>{1, 10, 100, 1000}));
}

TEST(Plot, escapes_names_and_marks_alarms) {
  const Scratch scratch;
  const std::string steps = step_line(1, 4) + step_line(2, 3) + "{\"step\": 2, \"validation_bits_per_byte\": 1.5}\n";
  const fs::path dir = run_of(scratch, "a<b>&\"c", steps);
  spill(dir / "alarms.jsonl", "{\"step\": 2, \"text\": \"1 < 2\"}\n{\"step\": \"x\"}\n");
  const std::vector<RunHistory> runs{RunHistory(dir), RunHistory(run_of(scratch, "other", steps))};
  const std::string svg = svg_of(chart_of(runs, RunAxis::step));
  EXPECT_EQ(svg.find("<b>"), svg.npos);
  EXPECT_NE(svg.find("a&lt;b&gt;&amp;&quot;c"), svg.npos);
  EXPECT_NE(svg.find("<title>a&lt;b&gt;&amp;&quot;c: 1 &lt; 2</title>"), svg.npos) << svg;
  EXPECT_EQ(count_of(svg, "class=\"alarm\""), 1u);
  EXPECT_NE(svg.find(">other</text>"), svg.npos) << "the legend";
  const Chart alone = chart_of({runs[1]}, RunAxis::step);
  EXPECT_EQ(alone.title, "other");
  EXPECT_TRUE(alone.legend.empty());
  ASSERT_EQ(alone.panels.size(), 4u);
  EXPECT_EQ(alone.panels[1].title, "Validation");
  EXPECT_EQ(alone.panels[1].lines[0].points, (std::vector<ChartPoint>{{2, 1.5}}));
  expect_error(ErrorKind::invalid_input, {"9 runs", "8"},
               [&] { chart_of(std::vector<RunHistory>(9, runs[0]), RunAxis::step); });
}

TEST(Plot, axes_and_layers) {
  const Scratch scratch;
  std::string lines;
  for (int64_t step = 1; step <= 3; ++step) {
    std::string line = step_line(step, 5.0 - double(step));
    for (const int layer : {0, 1, 10})
      line.insert(1, "\"residual_rms_" + std::to_string(layer) + "\": " + std::to_string(layer + step) + ", ");
    lines += line;
  }
  const RunHistory run(run_of(scratch, "r", lines + "{\"ste"));
  EXPECT_EQ(run.series("loss", RunAxis::step), (std::vector<ChartPoint>{{1, 4}, {2, 3}, {3, 2}}));
  EXPECT_EQ(run.series("loss", RunAxis::tokens), (std::vector<ChartPoint>{{100, 4}, {200, 3}, {300, 2}}));
  EXPECT_EQ(run.series("loss", RunAxis::seconds), (std::vector<ChartPoint>{{2, 4}, {4, 3}, {6, 2}}));
  EXPECT_EQ(run.numbers("residual_rms_"), (std::vector<int64_t>{0, 1, 10}));
  const auto layers = [](const Chart& chart) {
    for (const ChartPanel& panel : chart.panels)
      if (panel.unit == "RMS") return panel;
    return ChartPanel{};
  };
  const ChartPanel each = layers(chart_of({run}, RunAxis::step)), most = layers(chart_of({run, run}, RunAxis::step));
  ASSERT_EQ(each.lines.size(), 3u);
  EXPECT_EQ(each.lines[2].label, "layer 10");
  ASSERT_EQ(most.lines.size(), 2u);
  EXPECT_EQ(most.lines[1].points, (std::vector<ChartPoint>{{1, 11}, {2, 12}, {3, 13}}));
}

TEST(Plot, smoothing_keeps_a_straight_line) {
  std::vector<ChartPoint> line;
  for (int i = 0; i < 500; ++i) line.push_back({double(i), 2.0 * i});
  EXPECT_EQ(smoothed(line), line);
  line[250].y += 110;
  EXPECT_DOUBLE_EQ(smoothed(line)[250].y, 510);
  EXPECT_DOUBLE_EQ(smoothed(line)[256].y, 512);
}

TEST(Runs, are_found_and_summed_up) {
  const Scratch scratch;
  const fs::path a = run_of(scratch, "a", step_line(1, 4) + step_line(2, 3.5)),
                 b = run_of(scratch, "deep/er/b",
                            step_line(7, 2) + "{\"step\": 7, \"validation_bits_per_byte\": 1.25}\n");
  spill(a / "run.toml", "[train]\nsteps = 9\nlr = 0.5\n[data]\ntrain = [\"x\"]\n");
  fs::create_directories(b / "model");
  spill(b / "model/config.json", "{}");
  fs::create_directories(scratch / "no_run");
  EXPECT_EQ(runs_in(scratch.path()), (std::vector<fs::path>{a, b}));
  EXPECT_EQ(runs_in(a), std::vector<fs::path>{a});
  const RunSummary one = summary_of(a), other = summary_of(b);
  EXPECT_TRUE(one.state == "stopped" && one.step == 2 && one.steps == 9 && one.loss == 3.5 && one.tokens == 200);
  EXPECT_TRUE(std::isnan(one.bits_per_byte));
  EXPECT_EQ(one.seconds, 4);
  EXPECT_FALSE(one.started.empty());
  EXPECT_TRUE(other.state == "finished" && other.steps == -1 && other.bits_per_byte == 1.25);
  EXPECT_EQ(configuration_of(a).dump(), "{\"data.train\":[\"x\"],\"train.lr\":0.5,\"train.steps\":9}");
  expect_error(ErrorKind::not_found, {"no_run", "metrics.jsonl"}, [&] { RunHistory(scratch / "no_run"); });
  expect_error(ErrorKind::not_found, {"nowhere"}, [&] { runs_in(scratch / "nowhere"); });
}

}  // namespace
}  // namespace fulgur::tests

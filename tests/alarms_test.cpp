// The rules over a run's figures: what breaks them, once; what is learnt of earlier lines.
#include "train/alarms.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fulgur::tests {
namespace {

AlarmRules rules() {
  return {.rms = 1000, .growth = 10, .gradient = 5, .entropy = 0.1, .idle = 3, .stop = {"gradient"}};
}

// Of a figure's values at steps 1, 2, ...: "STEP RULE", one word each, of the alarms.
std::vector<std::string> alarms_of(const AlarmRules& rules, const std::string& figure,
                                   const std::vector<double>& values) {
  Alarms alarms(rules);
  std::vector<std::string> all;
  for (size_t i = 0; i < values.size(); ++i)
    for (const Alarm& a : alarms.judge({{"step", double(i + 1)}, {figure, values[i]}})) {
      EXPECT_EQ(a.figure, figure);
      EXPECT_EQ(a.stops, a.rule == "gradient");
      EXPECT_NE(a.text.find("step " + std::to_string(a.step)), std::string::npos) << a.text;
      all.push_back(std::to_string(a.step) + " " + a.rule);
    }
  return all;
}

using Words = std::vector<std::string>;

TEST(Alarms, bound) {
  EXPECT_EQ(alarms_of(rules(), "residual_rms_3", {1, 1000, 1001, 2000, 3, 1e9}), (Words{"3 rms", "6 rms"}));
  EXPECT_EQ(alarms_of(rules(), "state_rms_0", {1, NAN, 1}), Words{"2 rms"});
  EXPECT_EQ(alarms_of(rules(), "state_rms_0", {1, INFINITY}), Words{"2 rms"});
  AlarmRules none = rules();
  none.rms = none.growth = 0;
  EXPECT_EQ(alarms_of(none, "residual_rms_3", {1, 1, 1, 1, 1, 1, 1, 1, 1, 1e30}), Words{});
}

TEST(Alarms, growth_against_the_running_median) {
  const std::vector<double> eight{1, 2, 3, 1, 2, 3, 2, 2};
  std::vector<double> values = eight;
  values.insert(values.end(), {19, 21, 22, 2, 23});
  EXPECT_EQ(alarms_of(rules(), "residual_rms_0", values), (Words{"10 growth", "13 growth"}));
  EXPECT_EQ(alarms_of(rules(), "largest_logit", values), (Words{"10 growth", "13 growth"}));
  EXPECT_EQ(alarms_of(rules(), "residual_rms_0", {1, 1, 1, 1, 1, 1, 1, 100}), Words{}) << "seven values are too few";
  values.assign(8, 1);
  values.insert(values.end(), 64, 9);  // none of the first eight is left
  values.push_back(80);
  EXPECT_EQ(alarms_of(rules(), "residual_rms_0", values), Words{});
}

TEST(Alarms, gradient_entropy_and_what_has_no_rule) {
  EXPECT_EQ(alarms_of(rules(), "gradient_norm", {1, 1, 1, 1, 1, 1, 1, 1, 4.9, 5.1}), Words{"10 gradient"});
  EXPECT_EQ(alarms_of(rules(), "gradient_norm_head", {1, 1, 1, 1, 1, 1, 1, 1, 5.1}), Words{"9 gradient"});
  EXPECT_EQ(alarms_of(rules(), "router_entropy_normalised_2", {0.9, 0.11, 0.09, 0.05, 0.5}), Words{"3 entropy"});
  EXPECT_EQ(alarms_of(rules(), "loss", {1, 1, 1, 1, 1, 1, 1, 1, 1e9}), Words{});
  EXPECT_EQ(alarms_of(rules(), "router_entropy", {0, 0}), Words{});
}

TEST(Alarms, an_expert_that_nobody_chooses) {
  Alarms alarms(rules());
  Words all;
  const auto line = [&](int64_t step, const std::vector<const char*>& idle) {
    MetricLine values{{"step", double(step)}, {"idle_experts", double(idle.size())}};
    for (const char* expert : idle) values.emplace_back(std::string("idle_expert_") + expert, 1);
    for (const Alarm& a : alarms.judge(values)) all.push_back(std::to_string(step) + " " + a.figure + ": " + a.text);
  };
  line(1, {"0_5"}), line(2, {"0_5", "1_2"});
  EXPECT_TRUE(alarms.judge({{"step", 2}, {"loss", 1}}).empty()) << "health was not measured";
  line(3, {"1_2"}), line(4, {"0_5", "1_2"}), line(5, {"0_5", "1_2"}), line(6, {"0_5", "1_2"});
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0],
            "4 idle_expert_1_2: alarm at step 4: expert 2 of layer 1: chosen by no token in 3 measurements in a row "
            "(alarm.idle)");
  EXPECT_TRUE(all[1].starts_with("6 idle_expert_0_5: ")) << all[1];
}

TEST(Alarms, say_what_a_figure_is) {
  Alarms alarms(rules());
  const std::vector<Alarm> found = alarms.judge({{"step", 7}, {"residual_rms_3", 4321}, {"state_rms_2", 1e6}});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].text, "alarm at step 7: RMS of the rows that leave layer 2: 4321 is above 1000 (alarm.rms)");
  EXPECT_EQ(found[1].text, "alarm at step 7: RMS of layer 2's state: 1e+06 is above 1000 (alarm.rms)");
  ASSERT_EQ(lines_by_rule(found).size(), 1u);
  EXPECT_EQ(lines_by_rule(found)[0], found[0].text + "; and 1 more, in alarms.jsonl");
  EXPECT_EQ(described("residual_rms_0"), "RMS of the embedding's rows");
  EXPECT_EQ(described("gradient_norm_experts"), "gradient norm of experts");
}

}  // namespace
}  // namespace fulgur::tests

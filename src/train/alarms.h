// Alarms: rules over the figures of metrics.jsonl, step after step. What they know of earlier steps comes from those
// lines alone, so a run that goes on after its lines were read again raises the alarms of one that never stopped.
//
//   rms       residual_rms_*, state_rms_*: not finite, or above alarm.rms
//   growth    these and largest_logit: above alarm.growth times the median of their last 64 values
//   gradient  gradient_norm, gradient_norm_*: above alarm.gradient times the median of their last 64 values
//   entropy   router_entropy_normalised, router_entropy_normalised_*: below alarm.entropy
//   idle      idle_expert_LAYER_EXPERT: in alarm.idle measurements in a row
//
// A rule that was broken is silent about a figure until the figure has kept it again. A median counts from the eighth
// value on.
#pragma once
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "train/metrics.h"
#include "train/run_config.h"

namespace fulgur {

struct Alarm {
  int64_t step = 0;
  std::string rule, figure;  // figure: its key in metrics.jsonl
  double value = 0, bound = 0;
  std::string text;  // one line
  bool stops = false;
};

class Alarms {
 public:
  explicit Alarms(const AlarmRules& rules) : rules_(rules) {}

  // The line of a step, in their order. Returns the alarms that begin with it.
  std::vector<Alarm> judge(const MetricLine& line);

 private:
  struct Finding {
    bool broken;
    double bound;
    std::string why;  // what is broken, with the bound
  };
  Finding above_median(const std::string& figure, double value, double factor) const;
  void judge_rule(const std::string& rule, const std::string& figure, double value, const Finding& finding,
                  std::vector<Alarm>& alarms);
  void judge_idle(const MetricLine& line, std::vector<Alarm>& alarms);
  void judge_figure(const std::string& figure, double value, std::vector<Alarm>& alarms);

  const AlarmRules rules_;
  int64_t step_ = 0;
  std::map<std::string, std::deque<double>> earlier_;     // by figure: its last finite values
  std::map<std::string, int64_t> idle_for_;               // by figure: measurements in a row
  std::set<std::pair<std::string, std::string>> active_;  // rule and figure
};

// A line for each rule, of its first alarm: the terminal need not hold one for each of eighty layers.
std::vector<std::string> lines_by_rule(const std::vector<Alarm>& alarms);

// What a figure is, for a reader: "residual_rms_3" is "the rows that enter layer 3".
std::string described(const std::string& figure);

}  // namespace fulgur

// fulgur runs: the runs of a folder, and two runs side by side.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/error.h"
#include "base/progress.h"
#include "train/run_history.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

struct RunsOptions {
  std::string folder = "runs", a, b;
  bool json = false;
};

// Left-aligned columns; the first row is their heads.
void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line += std::string(width[i] - row[i].size() + 2, ' ');
    }
    std::printf("%s\n", line.c_str());
  }
}

std::string fixed(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  char text[40];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string shortened(double value) { return std::isfinite(value) ? short_number(value) : "-"; }

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json json_of(const RunSummary& s, const std::string& folder) {
  return {{"run", folder},
          {"state", s.state},
          {"step", s.step},
          {"steps", s.steps < 0 ? Json() : Json(s.steps)},
          {"tokens", number(s.tokens)},
          {"loss", number(s.loss)},
          {"validation_bits_per_byte", number(s.bits_per_byte)},
          {"tokens_per_second", number(s.tokens_per_second)},
          {"seconds", number(s.seconds)},
          {"alarms", s.alarms},
          {"started", s.started.empty() ? Json() : Json(s.started)}};
}

void print_line(const Json& document) {
  std::printf("%s\n", document.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

void list_runs(const RunsOptions& o) {
  const std::vector<std::filesystem::path> runs = runs_in(o.folder);
  Json all = Json::array();
  std::vector<std::vector<std::string>> rows{
      {"run", "state", "step", "tokens", "loss", "bits/byte", "tokens/s", "time", "alarms", "started"}};
  for (const std::filesystem::path& run : runs) {
    const RunSummary s = summary_of(run);
    const std::string name = run == o.folder ? s.name : run.lexically_relative(o.folder).string();
    all.push_back(json_of(s, run.string()));
    rows.push_back({name, s.state, std::to_string(s.step) + (s.steps < 0 ? "" : "/" + std::to_string(s.steps)),
                    shortened(s.tokens), fixed(s.loss, 4), fixed(s.bits_per_byte, 4), shortened(s.tokens_per_second),
                    std::isfinite(s.seconds) ? short_time(s.seconds) : "-", std::to_string(s.alarms),
                    s.started.empty() ? "-" : s.started});
  }
  if (o.json) print_line(all);
  else if (runs.empty()) std::printf("no runs in %s\n", o.folder.c_str());
  else print_table(rows);
}

// The keys that differ, absent ones as null.
Json differences(const Json& a, const Json& b) {
  Json differing = Json::object();
  for (const Json* one : {&a, &b})
    for (const auto& [key, value] : one->items()) {
      const Json in_a = a.value(key, Json()), in_b = b.value(key, Json());
      if (in_a != in_b) differing[key] = Json::array({in_a, in_b});
    }
  return differing;
}

std::string shown(const Json& value) { return value.is_null() ? "-" : value.dump(); }

void compare_runs(const RunsOptions& o) {
  const RunSummary a = summary_of(o.a), b = summary_of(o.b);
  const Json keys = differences(configuration_of(o.a), configuration_of(o.b));
  if (o.json) return print_line({{"configuration", keys}, {"figures", {json_of(a, o.a), json_of(b, o.b)}}});
  std::vector<std::vector<std::string>> rows{{"", a.name, b.name}};
  for (const auto& [key, values] : keys.items()) rows.push_back({key, shown(values[0]), shown(values[1])});
  if (keys.empty()) rows.push_back({"configuration", "the same", "the same"});
  rows.push_back({"", "", ""});
  const auto figure = [&](const char* name, const std::string& in_a, const std::string& in_b) {
    rows.push_back({name, in_a, in_b});
  };
  figure("state", a.state, b.state);
  figure("step", std::to_string(a.step), std::to_string(b.step));
  figure("tokens", shortened(a.tokens), shortened(b.tokens));
  figure("loss", fixed(a.loss, 4), fixed(b.loss, 4));
  figure("validation bits/byte", fixed(a.bits_per_byte, 4), fixed(b.bits_per_byte, 4));
  figure("tokens/s", shortened(a.tokens_per_second), shortened(b.tokens_per_second));
  figure("alarms", std::to_string(a.alarms), std::to_string(b.alarms));
  print_table(rows);
}

}  // namespace

void add_runs(CLI::App& app) {
  auto o = std::make_shared<RunsOptions>();
  CLI::App* command = app.add_subcommand("runs", "Lists the runs of a folder, or compares two");
  command->add_option("FOLDER", o->folder, "where to look for runs")->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document");
  CLI::App* compare = command->add_subcommand("compare", "The keys that differ, and the final figures side by side");
  compare->add_option("A", o->a, "folder of a run")->required();
  compare->add_option("B", o->b, "folder of a run")->required();
  compare->add_flag("--json", o->json, "one JSON document");
  command->callback([o, compare] {
    if (compare->parsed()) compare_runs(*o);
    else list_runs(*o);
  });
}

}  // namespace fulgur

#include "bench/step_table.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/onednn.h"

namespace fulgur::bench {
namespace {

[[gnu::format(printf, 2, 3)]] void add_line(std::string& text, const char* format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  (text += line) += '\n';
}

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

// What a rate is made of: ours beside oneDNN's for a product.
std::string rate_of(const FloorTerm& term, Floors& floors) {
  char text[96];
  if (term.unit[0] == 'b') {
    std::snprintf(text, sizeof text, "%.2f GB/s", term.rate * 1e-9);
  } else {
    const auto found = floors.products().all().find(term.work);
    const ProductRate rate = found == floors.products().all().end() ? ProductRate{} : found->second;
    const int length = std::snprintf(text, sizeof text, "%.3f TFLOP/s ours", rate.ours * 1e-12);
    if (rate.onednn > 0)
      std::snprintf(text + length, sizeof text - size_t(length), ", %.3f oneDNN", rate.onednn * 1e-12);
  }
  return text;
}

void add_row(std::string& text, const OperatorRow& row, double whole) {
  add_line(text, "%-30s %6lld %10.3f %8s %9.2f %9.3f %10.3f %8s", row.name.c_str(), static_cast<long long>(row.calls),
           row.seconds * 1e3, percent(share(row.seconds, whole)).c_str(), share(double(row.bytes), row.seconds) * 1e-9,
           share(row.flops, row.seconds) * 1e-12, row.floor * 1e3, percent(share(row.floor, row.seconds)).c_str());
}

}  // namespace

std::string percent(double part) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f %%", part * 100);
  return text;
}

StepTable table_of(const Recorder& recorder, Floors& floors) {
  StepTable table{.operators = {}, .terms = {}, .seconds = recorder.seconds()};
  double inside = 0;
  for (const OperatorCall& call : recorder.calls) {
    auto row = std::find_if(table.operators.begin(), table.operators.end(),
                            [&](const OperatorRow& r) { return r.name == call.name; });
    if (row == table.operators.end()) row = table.operators.insert(row, {.name = call.name});
    const std::vector<FloorTerm> terms = floors.of(call.work);
    ++row->calls, row->seconds += call.end - call.start, row->floor += seconds_of(terms);
    row->bytes += call.work.bytes, row->flops += call.work.flops();
    add_terms(table.terms, terms);
    inside += call.end - call.start;
  }
  table.between = table.seconds - inside;
  std::stable_sort(table.operators.begin(), table.operators.end(),
                   [](const OperatorRow& a, const OperatorRow& b) { return a.seconds > b.seconds; });
  std::stable_sort(table.terms.begin(), table.terms.end(),
                   [](const FloorTerm& a, const FloorTerm& b) { return a.seconds() > b.seconds(); });
  return table;
}

std::string text_of(const StepTable& table, Floors& floors) {
  std::string text;
  add_line(text, "%-30s %6s %10s %8s %9s %9s %10s %8s", "operator", "calls", "ms", "share", "GB/s", "TFLOP/s",
           "floor ms", "reached");
  for (const OperatorRow& row : table.operators) add_row(text, row, table.seconds);
  add_line(text, "%-30s %6s %10.3f %8s", "between operators", "", table.between * 1e3,
           percent(share(table.between, table.seconds)).c_str());
  add_line(text, "%-30s %6s %10.3f %8s %9s %9s %10.3f %8s", "step", "", table.seconds * 1e3, "", "", "",
           table.floor() * 1e3, percent(share(table.floor(), table.seconds)).c_str());
  add_line(text, "\nfloor, term by term%s", onednn() ? "" : " (oneDNN not built in)");
  for (const FloorTerm& term : table.terms)
    add_line(text, "%10.3f ms = %10.4g G%-5s at %-42s %s", term.seconds() * 1e3, term.amount * 1e-9, term.unit,
             rate_of(term, floors).c_str(), term.work.c_str());
  return text;
}

nlohmann::ordered_json json_of(const StepTable& table) {
  nlohmann::ordered_json operators = nlohmann::ordered_json::array(), terms = nlohmann::ordered_json::array();
  for (const OperatorRow& row : table.operators)
    operators.push_back({{"operator", row.name},
                         {"calls", row.calls},
                         {"seconds", row.seconds},
                         {"bytes", row.bytes},
                         {"flops", row.flops},
                         {"floor_seconds", row.floor},
                         {"share_of_floor", share(row.floor, row.seconds)}});
  for (const FloorTerm& term : table.terms)
    terms.push_back({{"work", term.work},
                     {"unit", term.unit},
                     {"amount", term.amount},
                     {"rate", term.rate},
                     {"seconds", term.seconds()}});
  return {{"seconds", table.seconds},       {"between_operators_seconds", table.between},
          {"floor_seconds", table.floor()}, {"share_of_floor", share(table.floor(), table.seconds)},
          {"operators", operators},         {"floor_terms", terms}};
}

nlohmann::ordered_json json_of(Floors& floors) {
  nlohmann::ordered_json products = nlohmann::ordered_json::array();
  for (const auto& [shape, rate] : floors.products().all()) {
    products.push_back({{"shape", shape}, {"ours", rate.ours}});
    if (rate.onednn > 0) products.back()["onednn"] = rate.onednn;
  }
  return {{"copy_bytes_per_second", floors.memory().copy},
          {"read_bytes_per_second", floors.memory().read},
          {"onednn", bool(onednn())},
          {"products_flop_per_second", products}};
}

}  // namespace fulgur::bench

#include "data/clean_stage.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "data/clean_text.h"
#include "data/raw_documents.h"
#include "files/atomic.h"
#include "files/digest.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kVersion = "clean 1";  // another number where the rules' code gives other results

// Of the text with every stretch of white space as one space.
void append_hash(std::string_view text, std::vector<uint64_t>& out) {
  std::string spaced;
  spaced.reserve(text.size());
  for (const char c : text) {
    const bool space = c == ' ' || c == '\t' || c == '\n';
    if (!space) spaced.push_back(c);
    else if (!spaced.empty() && spaced.back() != ' ') spaced.push_back(' ');
  }
  const XXH128_hash_t hash = XXH3_128bits(spaced.data(), spaced.size());
  out.insert(out.end(), {hash.high64, hash.low64});
}

// One unit's documents, one after another.
class UnitCleaner {
 public:
  UnitCleaner(const PrepareConfig& config, const std::vector<TokenInput>& inputs)
      : config_(config), inputs_(inputs), filters_(config.limits) {}

  void clean(const RawUnit& unit) {
    for (const RawDocument& d : unit.documents) clean(unit.text(d), d);
  }
  CleanedDocuments documents;
  DropCounts dropped;

 private:
  void clean(std::string_view raw, const RawDocument& d) {
    const std::string& path = inputs_[size_t(d.input)].path;
    if (int64_t(raw.size()) > config_.max_bytes) return drop("too large", raw, d, path);
    std::string parsed;
    if (!path.ends_with(".txt")) raw = parsed = text_of_json_line(raw, path, d.line);
    const CleanText clean = clean_text(raw);
    if (clean.dropped) return drop(clean.dropped, raw, d, path);
    const Language language = guess_language(clean.text);
    if (const Rule rule = filters_.rule_against(clean.text, language)) return drop(rule, clean.text, d, path);
    documents.text += clean.text;
    documents.begin.push_back(int64_t(documents.text.size()));
    documents.origin.insert(documents.origin.end(), {d.input, d.number});
    documents.language.push_back(uint8_t(language));
    append_hash(clean.text, documents.hash);
  }
  void drop(Rule rule, std::string_view text, const RawDocument& d, const std::string& path) {
    dropped.rules[rule].add(d.size, path, d.number, [&] { return text; });
  }

  const PrepareConfig& config_;
  const std::vector<TokenInput>& inputs_;
  TextFilters filters_;
};

void write_unit(const RawUnit& unit, const PrepareConfig& config, const std::vector<TokenInput>& inputs,
                const fs::path& file, const std::string& key) {
  UnitCleaner cleaner(config, inputs);
  cleaner.clean(unit);
  int64_t bytes_in = 0;
  for (const RawDocument& d : unit.documents) bytes_in += d.size;
  const Json report{{"source", unit.source},
                    {"documents_in", unit.documents.size()},
                    {"bytes_in", bytes_in},
                    {"dropped", cleaner.dropped.json()}};
  cleaner.documents.write(file, key, report.dump());
}

// What the files are without reading them: enough to know that they are those of an earlier run.
std::string identity_of(const std::vector<TokenInput>& inputs) {
  std::string text;
  for (const TokenInput& input : inputs) {
    struct stat status {};
    if (stat(input.path.c_str(), &status) != 0) fail(ErrorKind::not_found, input.path + ": cannot be read");
    text += input.source + " " + input.path + " " + std::to_string(status.st_size) + " " +
            std::to_string(status.st_mtim.tv_sec) + " " + std::to_string(status.st_mtim.tv_nsec) + "\n";
  }
  return text;
}

int64_t total_bytes(const std::vector<TokenInput>& inputs) {
  int64_t bytes = 0;
  for (const TokenInput& input : inputs) bytes += int64_t(fs::file_size(input.path));
  return bytes;
}

std::string key_of(const RawUnit& unit, const std::string& stage_key, const std::vector<TokenInput>& inputs) {
  std::string text = stage_key + unit.digest();
  int64_t input = -1;
  for (const RawDocument& d : unit.documents)
    if (d.input != input) input = d.input, text += inputs[size_t(input)].path + "\n";
  return digest_of(text);
}

// Every thread takes the next unit as long as there is one. Returns the units' keys.
std::vector<std::string> clean_units(const PrepareConfig& config, const std::string& key, const WorkFolder& work,
                                     Threads& threads, RawDocuments& raw, StageClock& clock) {
  std::mutex reading;
  std::vector<std::string> keys;
  FirstError errors;
  work.stage(kCleanStage);
  const auto take = [&]() -> std::optional<RawUnit> {
    const std::lock_guard lock(reading);
    std::optional<RawUnit> unit;
    errors.guard(int64_t(keys.size()), [&] { unit = raw.next(); });
    clock.reach(raw.bytes_read());
    if (unit) keys.push_back(key_of(*unit, key, raw.inputs()));
    return unit;
  };
  threads.for_each(threads.count(), [&](int64_t) {
    while (!errors.any()) {
      const std::optional<RawUnit> unit = take();
      if (!unit) return;
      errors.guard(unit->number, [&] {
        const std::string unit_key = [&] {
          const std::lock_guard lock(reading);
          return keys[size_t(unit->number)];
        }();
        const fs::path file = work.file(kCleanStage, unit->number);
        if (!WorkFolder::has(file, unit_key)) write_unit(*unit, config, raw.inputs(), file, unit_key);
      });
    }
  });
  errors.rethrow();
  return keys;
}

// Says that all units are there, and what the inputs were; written last.
Json manifest_of(const std::string& key, const std::vector<std::string>& units, const std::vector<TokenInput>& inputs) {
  Json digests = Json::array();
  for (const TokenInput& input : inputs) digests.push_back({{"digest", input.digest}, {"bytes", input.bytes}});
  return {{"key", key}, {"units", units}, {"inputs", digests}};
}

// The units' keys of an earlier run that ended this stage on the same inputs; none otherwise. Then the inputs have
// their digests.
std::vector<std::string> read_manifest(const fs::path& file, const std::string& key, std::vector<TokenInput>& inputs) {
  if (std::error_code ignored; !fs::exists(file, ignored)) return {};
  const Json manifest = parse_object(read_text(file), file.string());
  if (manifest.value("key", "") != key || manifest.at("inputs").size() != inputs.size()) return {};
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs[i].digest = manifest.at("inputs")[i].at("digest").get<std::string>();
    inputs[i].bytes = manifest.at("inputs")[i].at("bytes").get<int64_t>();
  }
  return manifest.at("units").get<std::vector<std::string>>();
}

void collect(const WorkFolder& work, const std::vector<std::string>& keys, CleanedUnits& cleaned) {
  for (size_t i = 0; i < keys.size(); ++i) {
    const CleanedUnit unit(work.file(kCleanStage, int64_t(i)));
    const Json report = parse_object(unit.metadata().at("report"), "a cleaned unit's report");
    const int64_t documents = unit.documents();
    cleaned.units.push_back({report.at("source").get<int64_t>(), report.at("documents_in").get<int64_t>(),
                             report.at("bytes_in").get<int64_t>(), documents, unit.total_bytes()});
    cleaned.dropped.add(DropCounts::of_json(report.at("dropped")));
    cleaned.key += keys[i];
  }
  cleaned.key = digest_of(cleaned.key);
}

}  // namespace

CleanedUnits clean_inputs(const PrepareConfig& config, const WorkFolder& work, Threads& threads) {
  RawDocuments raw(config);
  CleanedUnits cleaned{.units = {}, .inputs = raw.inputs(), .dropped = {}, .key = {}};
  const std::string key = digest_of(kVersion + config.values_of("clean.") + std::to_string(config.unit_bytes) +
                                    config.values_of("source."));
  const std::string inputs_key = digest_of(key + identity_of(raw.inputs()));
  const fs::path manifest = work.path() / "clean.json";
  StageClock clock(kCleanStage, total_bytes(raw.inputs()));
  std::vector<std::string> keys = read_manifest(manifest, inputs_key, cleaned.inputs);
  if (keys.empty()) {
    keys = clean_units(config, key, work, threads, raw, clock);
    cleaned.inputs = raw.inputs();
    write_file(manifest, manifest_of(inputs_key, keys, cleaned.inputs).dump() + "\n");
  }
  collect(work, keys, cleaned);
  clock.finish();
  cleaned.seconds = clock.seconds(), cleaned.mb_per_s = clock.mb_per_s();
  return cleaned;
}

}  // namespace fulgur

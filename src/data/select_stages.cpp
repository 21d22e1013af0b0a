#include "data/select_stages.h"

#include <algorithm>

#include "base/error.h"
#include "base/random.h"
#include "data/clean_text.h"
#include "data/decontaminate.h"
#include "data/documents.h"
#include "files/digest.h"

namespace fulgur {
namespace {

constexpr const char* kExact = "exact duplicates";
constexpr const char* kNear = "near duplicates";
constexpr const char* kEvaluation = "evaluation texts";
constexpr const char* kLabels = "quality labels";
constexpr const char *kSignatures = "signatures", *kContained = "contained", *kScores = "scores";  // folders

constexpr uint64_t kSamplingKey = fnv1a64("data prepare");

std::string unit_key(const std::string& stage_key, int64_t unit) {
  return digest_of(stage_key + " " + std::to_string(unit));
}

struct HashedDocument {
  std::array<uint64_t, 2> hash;
  int64_t id;
  auto operator<=>(const HashedDocument&) const = default;
};

std::string_view cut_at_character(std::string_view text, int64_t bytes) {
  if (int64_t(text.size()) <= bytes) return text;
  size_t end = size_t(bytes);
  while (end > 0 && (uint8_t(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

Windows evaluation_windows(const std::vector<std::string>& files) {
  Windows windows;
  for (const std::string& file : files)
    for (const std::string& document : read_documents(file))
      if (const CleanText clean = clean_text(document); !clean.dropped) windows.add(clean.text);
  windows.finish();
  return windows;
}

}  // namespace

void Stages::take_key(const std::string& stage, const std::string& values) {
  key = digest_of(key + stage + "\n" + values);
}

std::vector<std::string_view> Stages::kept_texts(const CleanedUnit& unit, int64_t number) const {
  std::vector<std::string_view> texts;
  for (int64_t i = 0; i < unit.documents(); ++i)
    if (selection.keeps(selection.first(number) + i)) texts.push_back(unit.text(i));
  return texts;
}

template <class Make>
void Stages::make_units(const std::string& stage, StageClock& clock, const Make& make) {
  work.stage(stage);
  for_each_guarded(threads, selection.units(), [&](int64_t unit) {
    const std::filesystem::path file = work.file(stage, unit);
    const std::string expected = unit_key(key, unit);
    const bool there = WorkFolder::has(file, expected);
    if (!there) {
      const CleanedUnit cleaned = selection.open(unit);
      const auto values = make(kept_texts(cleaned, unit));
      const TensorToWrite tensors[] = {tensor_of("values", values)};
      write_safetensors(file, tensors, {{"key", expected}});
    }
    clock.done(selection.kept_bytes(unit), !there);
  });
}

// As many passes over all hashes as keep what is sorted at once within 256 MB, each for a part of the hashes' range.
StageReport Stages::drop_exact_duplicates() {
  constexpr int64_t kAtOnce = (256 << 20) / int64_t(sizeof(HashedDocument));
  StageClock clock(kExact, selection.kept_bytes());
  take_key(kExact, config.exact ? "on" : "off");
  std::vector<Selection::Drop> drops;
  const uint64_t passes = config.exact ? uint64_t(selection.documents() / kAtOnce) + 1 : 0;
  for (uint64_t pass = 0; pass < passes; ++pass) {
    std::vector<HashedDocument> part;
    for (int64_t unit = 0; unit < selection.units(); ++unit) {
      const CleanedUnit cleaned = selection.open(unit);
      for (int64_t i = 0; i < cleaned.documents(); ++i)
        if (cleaned.hash(i)[0] % passes == pass) part.push_back({cleaned.hash(i), selection.first(unit) + i});
      clock.done(selection.kept_bytes(unit) / int64_t(passes), true);
    }
    std::sort(part.begin(), part.end());
    for (size_t i = 1; i < part.size(); ++i)
      if (part[i].hash == part[i - 1].hash) drops.push_back({part[i].id, "exact duplicate"});
  }
  std::sort(drops.begin(), drops.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  clock.finish();
  return selection.drop(kExact, drops, clock);
}

std::vector<uint64_t> Stages::near_duplicates(StageClock& clock) {
  const NearDuplicates::Options& options = config.near_options;
  const std::filesystem::path file = work.path() / "near.safetensors";
  if (!WorkFolder::has(file, key)) {
    make_units(kSignatures, clock, [&](const std::vector<std::string_view>& texts) {
      std::vector<uint32_t> signatures;
      for (const std::string_view text : texts) {
        const std::vector<uint32_t> signature = NearDuplicates::signature(text, options);
        signatures.insert(signatures.end(), signature.begin(), signature.end());
      }
      return signatures;
    });
    NearDuplicates near(work.stage("near"), options, threads.count());
    for (int64_t unit = 0; unit < selection.units(); ++unit) {
      const Safetensors opened = Safetensors::open(work.file(kSignatures, unit));
      std::span<const uint32_t> signatures = elements_of<uint32_t>(opened, "values");
      for (int64_t id = selection.first(unit); id < selection.first(unit + 1); ++id) {
        if (!selection.keeps(id)) continue;
        near.add(uint64_t(id), signatures.first(size_t(options.hashes)));
        signatures = signatures.subspan(size_t(options.hashes));
      }
    }
    const std::vector<uint64_t> ids = near.duplicates();
    const TensorToWrite tensors[] = {tensor_of("ids", ids)};
    write_safetensors(file, tensors, {{"key", key}});
  }
  const Safetensors opened = Safetensors::open(file);
  const std::span<const uint64_t> ids = elements_of<uint64_t>(opened, "ids");
  return {ids.begin(), ids.end()};
}

StageReport Stages::drop_near_duplicates() {
  StageClock clock(kNear, selection.kept_bytes());
  take_key(kNear, config.near ? config.values_of("duplicates.") + std::to_string(config.seed) : "off");
  std::vector<Selection::Drop> drops;
  if (config.near)
    for (const uint64_t id : near_duplicates(clock)) drops.push_back({int64_t(id), "near duplicate"});
  clock.finish();
  return selection.drop(kNear, drops, clock);
}

StageReport Stages::drop_evaluation_texts() {
  StageClock clock(kEvaluation, selection.kept_bytes());
  std::string digests;
  for (const std::string& file : config.evaluation_files) digests += digest_of_file(file) + "\n";
  take_key(kEvaluation, digests);
  const Windows windows = evaluation_windows(config.evaluation_files);
  std::vector<Selection::Drop> drops;
  if (!config.evaluation_files.empty()) {
    make_units(kContained, clock, [&](const std::vector<std::string_view>& texts) {
      std::vector<uint8_t> contained;
      for (const std::string_view text : texts) contained.push_back(windows.occurs_in(text));
      return contained;
    });
    for (int64_t unit = 0; unit < selection.units(); ++unit) {
      const Safetensors opened = Safetensors::open(work.file(kContained, unit));
      const uint8_t* contained = elements_of<uint8_t>(opened, "values").data();
      for (int64_t id = selection.first(unit); id < selection.first(unit + 1); ++id)
        if (selection.keeps(id) && *contained++) drops.push_back({id, "evaluation text"});
    }
  }
  clock.finish();
  return selection.drop(kEvaluation, drops, clock);
}

StageReport Stages::sample_by_label(Scorer& scorer, std::vector<uint8_t>& labels) {
  StageClock clock(kLabels, selection.kept_bytes());
  take_key(kScores, scorer.digest() + std::to_string(config.score_bytes));
  work.stage(kScores);
  std::vector<Selection::Drop> drops;
  for (int64_t unit = 0; unit < selection.units(); ++unit) {  // the scorer has threads of its own
    const std::filesystem::path file = work.file(kScores, unit);
    const std::string expected = unit_key(key, unit);
    const CleanedUnit cleaned = selection.open(unit);
    if (!WorkFolder::has(file, expected)) {
      std::vector<std::string_view> texts = kept_texts(cleaned, unit);
      for (std::string_view& text : texts) text = cut_at_character(text, config.score_bytes);
      const std::vector<double> scores = scorer.score(texts, [&](int64_t bytes) { clock.done(bytes, true); });
      const TensorToWrite tensors[] = {tensor_of("values", scores)};
      write_safetensors(file, tensors, {{"key", expected}});
    }
    const Safetensors opened = Safetensors::open(file);
    const double* score = elements_of<double>(opened, "values").data();
    for (int64_t i = 0; i < cleaned.documents(); ++i) {
      const int64_t id = selection.first(unit) + i;
      if (!selection.keeps(id)) continue;
      const auto& t = config.thresholds;
      const size_t label = size_t(std::upper_bound(t.begin(), t.end(), *score++) - t.begin());
      labels[size_t(id)] = uint8_t(label + 1);
      const PhiloxBlock draw =
          philox(kSamplingKey ^ config.seed, uint64_t(cleaned.number(i)), uint64_t(cleaned.input(i)));
      if (unit_interval(draw[0]) >= config.keep[label]) drops.push_back({id, "label " + std::to_string(label + 1)});
    }
  }
  take_key(kLabels,
           config.values_of("quality.thresholds") + config.values_of("quality.keep") + std::to_string(config.seed));
  clock.finish();
  return selection.drop(kLabels, drops, clock);
}

}  // namespace fulgur

#include "data/token_stage.h"

#include <algorithm>

#include "base/error.h"
#include "data/token_shards.h"
#include "text/word_cache.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokens = "tokens";

// A tokenised unit is a shard by itself; its name holds the key.
fs::path unit_file(const WorkFolder& work, const std::string& key, int64_t unit) {
  char end[32];
  std::snprintf(end, sizeof end, "-%05lld.safetensors", static_cast<long long>(unit));
  return work.path() / kTokens / (key + end);
}

void append_unit(const fs::path& file, ShardDocuments& shard) {
  const Safetensors unit = Safetensors::open(file);
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  const int64_t before = int64_t(shard.tokens.size());
  append(shard.tokens, elements_of<int32_t>(unit, "tokens"));
  append(shard.bytes, elements_of<int64_t>(unit, "bytes"));
  append(shard.label, elements_of<int32_t>(unit, "label"));
  for (const int64_t begin : elements_of<int64_t>(unit, "begin").subspan(1)) shard.begin.push_back(before + begin);
  const std::span<const int64_t> origin = elements_of<int64_t>(unit, "origin");
  for (size_t i = 0; i < origin.size(); i += 2) shard.origin.push_back({origin[i], origin[i + 1]});
}

// Consecutive units of one source.
struct ShardPlan {
  int64_t source, number, first_unit, last_unit;
};

std::vector<ShardPlan> plan_shards(const CleanedUnits& cleaned, const WorkFolder& work, const std::string& key,
                                   int64_t most_tokens) {
  std::vector<ShardPlan> plans;
  int64_t tokens = 0;
  for (size_t i = 0; i < cleaned.units.size(); ++i) {
    const int64_t source = cleaned.units[i].source, unit = int64_t(i);
    const Safetensors opened = Safetensors::open(unit_file(work, key, unit));
    const int64_t more = opened.at("tokens").count();
    if (more == 0) continue;
    const bool same = !plans.empty() && plans.back().source == source;
    if (same && tokens + more <= most_tokens) {
      plans.back().last_unit = unit, tokens += more;
    } else {
      plans.push_back({source, same ? plans.back().number + 1 : 0, unit, unit}), tokens = more;
    }
  }
  return plans;
}

}  // namespace

FramingTokens framing_tokens(const Tokenizer& tokenizer, const std::string& path) {
  const auto required = [&](const char* token) {
    const std::optional<int32_t> id = tokenizer.id_of(token);
    if (!id)
      fail(ErrorKind::invalid_input, path + ": the tokenizer has no token " + token + ", which frames documents");
    return *id;
  };
  return {required("<beginning_of_sentence>"), required("<end_of_document>")};
}

void tokenise_units(const Tokenizer& tokenizer, const FramingTokens& frame, const Selection& selection,
                    const std::vector<uint8_t>& labels, const WorkFolder& work, const std::string& key,
                    Threads& threads, StageClock& clock) {
  work.stage(kTokens);
  for_each_guarded(threads, selection.units(), [&](int64_t unit) {
    std::error_code ignored;
    const bool there = fs::exists(unit_file(work, key, unit), ignored);
    if (!there) {
      const CleanedUnit cleaned = selection.open(unit);
      ShardDocuments d;
      WordCache cache;
      for (int64_t i = 0; i < cleaned.documents(); ++i) {
        const int64_t id = selection.first(unit) + i;
        if (!selection.keeps(id)) continue;
        d.tokens.push_back(frame.begin_of_sentence);
        tokenizer.encode(cleaned.text(i), SpecialTokens::as_text, cache, d.tokens);
        d.tokens.push_back(frame.end_of_document);
        d.begin.push_back(int64_t(d.tokens.size())), d.bytes.push_back(cleaned.bytes(i));
        d.origin.push_back({cleaned.input(i), cleaned.number(i)}), d.label.push_back(labels[size_t(id)]);
      }
      write_token_shard(work.path() / kTokens, key, unit, d);
    }
    clock.done(selection.kept_bytes(unit), !there);
  });
}

std::vector<TokenSource> write_shards_of_units(const PrepareConfig& config, const CleanedUnits& cleaned,
                                               const WorkFolder& work, const std::string& key, Threads& threads,
                                               StageClock& clock) {
  const std::vector<ShardPlan> plans = plan_shards(cleaned, work, key, config.shard_tokens);
  std::vector<ShardEntry> entries(plans.size());
  for_each_guarded(threads, int64_t(plans.size()), [&](int64_t i) {
    const ShardPlan& plan = plans[size_t(i)];
    ShardDocuments shard;
    for (int64_t unit = plan.first_unit; unit <= plan.last_unit; ++unit) append_unit(unit_file(work, key, unit), shard);
    entries[size_t(i)] = write_token_shard(config.out, config.sources[size_t(plan.source)].name, plan.number, shard);
    clock.done(entries[size_t(i)].bytes, true);
  });
  std::vector<TokenSource> sources;
  for (const PrepareSource& source : config.sources) sources.push_back({source.name, source.weight, {}});
  for (size_t i = 0; i < plans.size(); ++i) sources[size_t(plans[i].source)].shards.push_back(std::move(entries[i]));
  return sources;
}

}  // namespace fulgur

#include "data/prepare_config.h"

#include <glob.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/threads.h"
#include "data/token_index.h"
#include "files/toml_file.h"

namespace fulgur {
namespace {

constexpr int64_t kMany = int64_t(1) << 40;
constexpr double kLarge = 1e9;

bool is_readable(const std::string& file) {
  return file.ends_with(".txt") || file.ends_with(".jsonl") || file.ends_with(".jsonl.zst");
}

std::vector<std::string> expanded(const std::string& key, const std::string& pattern) {
  glob_t found{};
  glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> files(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  std::sort(files.begin(), files.end());  // by bytes, whatever the locale
  if (files.empty()) fail(ErrorKind::not_found, key + ": no file matches " + pattern);
  for (const std::string& file : files) {
    if (!std::filesystem::is_regular_file(file)) fail(ErrorKind::not_found, key + ": " + file + " is no file");
    if (!is_readable(file))
      fail(ErrorKind::unsupported, key + ": " + file + ": expected a .txt, .jsonl or .jsonl.zst file");
  }
  return files;
}

std::vector<std::string> read_files(TomlReader& r, const std::string& key) {
  std::vector<std::string> files;
  for (const std::string& pattern : r.words(key))
    for (std::string& file : expanded(key, pattern)) files.push_back(std::move(file));
  return files;
}

void read_sources(TomlReader& r, PrepareConfig& c) {
  for (const std::string& name : r.sections("source")) {
    const std::string key = "source." + name;
    if (!is_source_name(name) || name.find('.') != name.npos)
      fail(ErrorKind::invalid_input, "[" + key + "]: expected a name of letters, digits, - and _");
    PrepareSource source{.name = name, .weight = r.number(key + ".weight", 1, 1e-9, kLarge), .files = {}};
    source.files = read_files(r, key + ".files");
    if (source.files.empty()) fail(ErrorKind::invalid_input, key + ".files: expected a list of files");
    std::set<std::string> once;
    for (const std::string& file : source.files)
      if (!once.insert(file).second) fail(ErrorKind::invalid_input, key + ".files: " + file + " is there twice");
    c.sources.push_back(std::move(source));
  }
  if (c.sources.empty())
    fail(ErrorKind::invalid_input, "expected a section [source.NAME] with `files` for each source");
}

void read_languages(TomlReader& r, FilterLimits& limits) {
  limits.languages = r.words("clean.languages");
  std::string known;
  for (int i = 0; i < kLanguages; ++i) known += (i ? ", " : "") + std::string(name_of(Language(i)));
  for (const std::string& name : limits.languages) {
    bool found = false;
    for (int i = 0; i < kLanguages; ++i) found |= name == name_of(Language(i));
    if (!found) fail(ErrorKind::invalid_input, "clean.languages: no language `" + name + "`: expected " + known);
  }
}

void read_clean(TomlReader& r, PrepareConfig& c) {
  FilterLimits& l = c.limits;
  c.max_bytes = r.integer("clean.max_bytes", 16 << 20, 1, 1 << 30);
  read_languages(r, l);
  l.min_words = r.integer("clean.min_words", l.min_words, 0, kMany);
  l.max_words = r.integer("clean.max_words", l.max_words, 0, kMany);
  l.min_word_length = r.number("clean.min_word_length", l.min_word_length, 0, kLarge);
  l.max_word_length = r.number("clean.max_word_length", l.max_word_length, 0, kLarge);
  const auto share = [&](const char* key, double& value) {
    value = r.number(std::string("clean.") + key, value, 0, 1);
  };
  share("min_alphabetic", l.min_alphabetic), share("max_symbols", l.max_symbols);
  share("max_symbol_words", l.max_symbol_words);
  share("max_bullet_lines", l.max_bullet_lines), share("max_ellipsis_lines", l.max_ellipsis_lines);
  share("max_repeated_lines", l.max_repeated_lines), share("max_repeated_line_bytes", l.max_repeated_line_bytes);
  share("max_repeated_paragraphs", l.max_repeated_paragraphs);
  share("max_repeated_paragraph_bytes", l.max_repeated_paragraph_bytes);
  l.max_top_ngram = r.numbers("clean.max_top_ngram", l.max_top_ngram, 0, 1);
  l.max_repeated_ngrams = r.numbers("clean.max_repeated_ngrams", l.max_repeated_ngrams, 0, 1);
}

void read_duplicates(TomlReader& r, PrepareConfig& c) {
  c.exact = r.flag("duplicates.exact", true);
  c.near = r.flag("duplicates.near", true);
  c.near_options.jaccard = r.number("duplicates.jaccard", c.near_options.jaccard, 0.5, 1);
  c.near_options.seed = c.seed;
  c.near_options.memory_bytes = r.integer("duplicates.memory_mb", c.near_options.memory_bytes >> 20, 1, 1 << 20) << 20;
}

void read_quality(TomlReader& r, PrepareConfig& c) {
  c.model = r.word("quality.model", "");
  c.score_bytes = r.integer("quality.bytes", 4096, 1, 1 << 30);
  c.thresholds = r.numbers("quality.thresholds", {}, -kLarge, kLarge);
  c.keep = r.numbers("quality.keep", std::vector<double>(c.thresholds.size() + 1, 1.0), 0, 1);
  if (!std::is_sorted(c.thresholds.begin(), c.thresholds.end(), std::less_equal<>()))
    fail(ErrorKind::invalid_input, "quality.thresholds: expected ascending numbers");
  if (c.thresholds.size() > 100)
    fail(ErrorKind::invalid_input,
         "quality.thresholds has " + std::to_string(c.thresholds.size()) + " numbers: expected at most 100");
  if (c.keep.size() != c.thresholds.size() + 1)
    fail(ErrorKind::invalid_input, "quality.keep has " + std::to_string(c.keep.size()) + " shares: expected " +
                                       std::to_string(c.thresholds.size() + 1) + ", one for each label");
  if (c.model.empty() && (!c.thresholds.empty() || c.keep.front() != 1))
    fail(ErrorKind::invalid_input,
         "quality.thresholds and quality.keep: expected quality.model, which gives the scores");
}

// What may differ between two runs with the same result.
bool is_free(const std::string& key) {
  return key == "prepare.out" || key == "prepare.threads" || key == "prepare.keep_work" ||
         key == "duplicates.memory_mb";
}

}  // namespace

PrepareConfig read_prepare_config(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  TomlReader r(file, settings);
  PrepareConfig c;
  c.out = r.word("prepare.out", "");
  if (c.out.empty()) fail(ErrorKind::invalid_input, "prepare.out: expected the folder to write to");
  c.keep_work = r.flag("prepare.keep_work", false);
  c.threads = int(r.integer("prepare.threads", 0, 0, 4096));
  c.seed = uint64_t(r.integer("prepare.seed", 0, 0));
  c.unit_bytes = r.integer("prepare.unit_bytes", 16 << 20, 1, 1 << 30);
  c.shard_tokens = r.integer("prepare.shard_tokens", 16 << 20, 1, 1 << 30);
  c.tokenizer = r.word("prepare.tokenizer", "");
  if (c.tokenizer.empty()) fail(ErrorKind::invalid_input, "prepare.tokenizer: expected the folder of a tokenizer");
  read_sources(r, c);
  read_clean(r, c);
  read_duplicates(r, c);
  c.evaluation_files = read_files(r, "decontaminate.files");
  read_quality(r, c);
  r.refuse_unknown();
  for (const auto& [key, value] : r.taken().items())
    if (!is_free(key)) c.decisive[key] = value;
  return c;
}

int PrepareConfig::thread_count() const { return threads > 0 ? threads : available_cores(); }

std::string PrepareConfig::values_of(const std::string& prefix) const {
  std::string text;
  for (const auto& [key, value] : decisive.items())
    if (key.starts_with(prefix)) text += key + " = " + value.dump() + "\n";
  return text;
}

}  // namespace fulgur

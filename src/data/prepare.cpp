#include "data/prepare.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/clean_stage.h"
#include "data/raw_documents.h"
#include "data/select_stages.h"
#include "data/token_shards.h"
#include "data/token_stage.h"
#include "files/atomic.h"
#include "files/digest.h"
#include "files/disk.h"
#include "files/folder_lock.h"
#include "files/json_file.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

fs::path work_of(const PrepareConfig& config) { return config.out / "work"; }

// A folder of ours, or an empty one; made where there is none. Shards in it may be removed later, so it is judged well.
void claim_folder(const PrepareConfig& config) {
  std::error_code error;
  if (config.out.has_parent_path()) fs::create_directories(config.out.parent_path(), error);
  disk::make_folder(config.out);
  const fs::path file = config.out / kPrepareConfiguration;
  bool ours = is_there(file) && parse_object(read_text(file), file.string()).contains("prepare.unit_bytes");
  if (!is_there(file)) {
    ours = true;  // unless there is anything but what an interruption leaves
    for (const fs::directory_entry& entry : fs::directory_iterator(config.out))
      ours = ours && entry.path().filename() == std::string(kPrepareConfiguration) + ".tmp";
  }
  if (!ours)
    fail(ErrorKind::invalid_input, "prepare.out: " + config.out.string() + " holds files and no " +
                                       kPrepareConfiguration +
                                       " of a preparation; expected its folder, an empty one, or a new name");
}

// What decides the result: the configuration's keys, and what the files hold that it names beside the inputs.
Json decisive_of(const PrepareConfig& config, const Tokenizer& tokenizer, const Scorer* scorer) {
  Json decisive = config.decisive;
  decisive["digest of prepare.tokenizer"] = std::to_string(tokenizer.digest());
  Json evaluation = Json::array();
  for (const std::string& file : config.evaluation_files) evaluation.push_back(digest_of_file(file));
  decisive["digests of decontaminate.files"] = evaluation;
  if (scorer) decisive["digest of quality.model"] = scorer->digest();
  return decisive;
}

// "key is NEW (was OLD)" for every key whose value differs.
std::string differences(const Json& before, const Json& now) {
  std::string list;
  const auto add = [&](const std::string& key, const Json& is, const Json& was) {
    if (is != was) list += (list.empty() ? "" : ", ") + key + " is " + is.dump() + " (was " + was.dump() + ")";
  };
  for (const auto& [key, value] : now.items()) add(key, value, before.value(key, Json()));
  for (const auto& [key, value] : before.items())
    if (!now.contains(key)) add(key, Json(), value);
  return list;
}

// Refuses what a complete folder does not hold.
void require_same(const PrepareConfig& config, const Json& now, const Json& before) {
  const std::string advice = "; expected another prepare.out, or that folder removed";
  const std::string different = differences(before, now);
  if (!different.empty())
    fail(ErrorKind::invalid_input,
         config.out.string() + " is complete under another configuration: " + different + advice);
  const std::vector<TokenInput> inputs = RawDocuments(config).inputs(), old = read_token_index(config.out).inputs;
  for (size_t i = 0; i < std::max(inputs.size(), old.size()); ++i) {
    const std::string path = i < inputs.size() ? inputs[i].path : old[i].path;
    if (i >= inputs.size() || i >= old.size() || old[i].path != path || old[i].bytes != int64_t(fs::file_size(path)))
      fail(ErrorKind::invalid_input,
           config.out.string() + " is complete and was made of other inputs: " + path + " differs" + advice);
  }
}

// Shards of an interrupted attempt, which may have been another's.
void remove_shards(const fs::path& folder) {
  std::vector<fs::path> doomed;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.tmp")) doomed.push_back(entry.path());
  }
  std::sort(doomed.begin(), doomed.end());
  for (const fs::path& path : doomed) disk::remove(path);
}

StageReport report_of(const CleanedUnits& cleaned) {
  StageReport report{
      .name = kCleanStage, .seconds = cleaned.seconds, .mb_per_s = cleaned.mb_per_s, .dropped = cleaned.dropped};
  for (const CleanedUnits::Unit& unit : cleaned.units) {
    report.documents_in += unit.documents_in, report.bytes_in += unit.bytes_in;
    report.documents_out += unit.documents, report.bytes_out += unit.bytes;
  }
  return report;
}

StageReport report_of(const std::string& name, const StageClock& clock, const Selection& selection) {
  const int64_t documents = selection.kept_documents(), bytes = selection.kept_bytes();
  return {name, clock.seconds(), clock.mb_per_s(), documents, bytes, documents, bytes, {}};
}

// Documents and bytes of what stayed, by a number of each document.
class Shares {
 public:
  void add(const std::string& name, int64_t bytes) { ++of_[name].first, of_[name].second += bytes; }
  Json json() const {
    Json list = Json::array();
    for (const auto& [name, counts] : of_)
      list.push_back({{"name", name}, {"documents", counts.first}, {"bytes", counts.second}});
    return list;
  }

 private:
  std::map<std::string, std::pair<int64_t, int64_t>> of_;
};

Json json_of(const StageReport& r) {
  return {{"name", r.name},           {"seconds", r.seconds},
          {"mb_per_s", r.mb_per_s},   {"documents_in", r.documents_in},
          {"bytes_in", r.bytes_in},   {"documents_out", r.documents_out},
          {"bytes_out", r.bytes_out}, {"dropped", r.dropped.json()}};
}

// The stages in their order.
class Preparation {
 public:
  Preparation(const PrepareConfig& config, const Tokenizer& tokenizer)
      : config_(config),
        tokenizer_(tokenizer),
        frame_(framing_tokens(tokenizer_, config.tokenizer)),
        threads_(config.thread_count()),
        work_(work_of(config)) {}

  void run(Scorer* scorer) {
    cleaned_ = clean_inputs(config_, work_, threads_);
    reports_.push_back(report_of(cleaned_));
    Selection selection(cleaned_, work_);
    Stages stages{config_, work_, threads_, selection, cleaned_.key};
    reports_.push_back(stages.drop_exact_duplicates());
    reports_.push_back(stages.drop_near_duplicates());
    reports_.push_back(stages.drop_evaluation_texts());
    labels_.assign(size_t(selection.documents()), 0);
    if (scorer) reports_.push_back(stages.sample_by_label(*scorer, labels_));
    write_tokens(selection, stages.key);
    write_file(config_.out / kReportFile, report(selection).dump(1) + "\n");
    if (selection.kept_documents() == 0)
      fail(ErrorKind::invalid_input,
           "no document was kept; " + (config_.out / kReportFile).string() + " says which rules dropped them");
    write_token_index(config_.out, index_);
  }

 private:
  void write_tokens(const Selection& selection, const std::string& selection_key) {
    index_ = {.vocab_size = tokenizer_.vocab_size(),
              .tokenizer_digest = std::to_string(tokenizer_.digest()),
              .begin_of_sentence = frame_.begin_of_sentence,
              .end_of_document = frame_.end_of_document,
              .inputs = cleaned_.inputs,
              .sources = {}};
    StageClock tokens("tokens", selection.kept_bytes());
    const std::string key = digest_of(selection_key + index_.tokenizer_digest);
    tokenise_units(tokenizer_, frame_, selection, labels_, work_, key, threads_, tokens);
    tokens.finish();
    reports_.push_back(report_of("tokens", tokens, selection));
    StageClock shards("shards", selection.kept_bytes());
    remove_shards(config_.out);
    index_.sources = write_shards_of_units(config_, cleaned_, work_, key, threads_, shards);
    shards.finish();
    reports_.push_back(report_of("shards", shards, selection));
  }

  Json report(const Selection& selection) const {
    Shares languages, labels;
    for (int64_t unit = 0; unit < selection.units(); ++unit) {
      const CleanedUnit cleaned = selection.open(unit);
      for (int64_t i = 0; i < cleaned.documents(); ++i) {
        const int64_t id = selection.first(unit) + i;
        if (!selection.keeps(id)) continue;
        languages.add(name_of(cleaned.language(i)), cleaned.bytes(i));
        if (labels_[size_t(id)] != 0) labels.add(std::to_string(labels_[size_t(id)]), cleaned.bytes(i));
      }
    }
    Json stages = Json::array(), sources = Json::array();
    double seconds = 0;
    for (const StageReport& r : reports_) stages.push_back(json_of(r)), seconds += r.seconds;
    for (const TokenSource& s : index_.sources)
      sources.push_back({{"name", s.name},
                         {"weight", s.weight},
                         {"documents", s.documents()},
                         {"bytes", s.bytes()},
                         {"tokens", s.tokens()}});
    return {{"stages", stages},        {"sources", sources},       {"languages", languages.json()},
            {"labels", labels.json()}, {"total_seconds", seconds}, {"fingerprint", index_.fingerprint()}};
  }

  const PrepareConfig& config_;
  const Tokenizer& tokenizer_;
  const FramingTokens frame_;
  Threads threads_;
  const WorkFolder work_;
  CleanedUnits cleaned_;
  std::vector<uint8_t> labels_;
  std::vector<StageReport> reports_;
  TokenIndex index_;
};

void remove_work(const PrepareConfig& config) {
  if (config.keep_work) return;
  if (is_there(work_of(config))) remove_folder(work_of(config));
  remove_leftovers(work_of(config));
}

}  // namespace

Prepared prepare(const PrepareConfig& config, Scorer* scorer) {
  expect((scorer != nullptr) == !config.model.empty(), "a scorer where the configuration names a model");
  const Tokenizer tokenizer = Tokenizer::load(config.tokenizer);
  const Json decisive = decisive_of(config, tokenizer, scorer);
  claim_folder(config);
  const FolderLock lock(config.out);
  const fs::path configuration = config.out / kPrepareConfiguration;
  const bool complete = is_there(config.out / kTokenIndexFile);
  if (complete) {
    require_same(config, decisive, parse_object(read_text(configuration), configuration.string()));
  } else {
    write_file(configuration, decisive.dump(1) + "\n");
    Preparation(config, tokenizer).run(scorer);
  }
  remove_work(config);
  return complete ? Prepared::before : Prepared::now;
}

}  // namespace fulgur

// label: slow
// A corpus in which copies and leaks are planted (tests/planted_corpus.py): the copies are found, nothing else is lost,
// and no window of the evaluation texts stays. By hand on another corpus: FULGUR_PLANTED=FOLDER planted_corpus_test.
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/progress.h"
#include "base/threads.h"
#include "data/decontaminate.h"
#include "data/documents.h"
#include "data/near_duplicates.h"
#include "files/json_file.h"
#include "tests/scratch.h"
#include "text/unicode.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string normalised(const std::string& raw) {
  std::string storage, text;
  for (const char c : cleaned(raw, Normalisation::nfc, storage))
    if (c != '\r') text += c;
  return text;
}

class PlantedCorpus : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = std::make_unique<Scratch>();
    const char* given = std::getenv("FULGUR_PLANTED");
    folder_ = given ? fs::path(given) : *scratch_ / "corpus";
    if (given) return;
    const std::string script = FULGUR_SOURCE "/tests/planted_corpus.py";
    Child child({"/usr/bin/env", "python3", script, folder_.string(), "--megabytes", "2"}, *scratch_ / "script");
    const Finished made = child.wait(600);
    ASSERT_EQ(made.exit, 0) << made.err;
  }
  static void TearDownTestSuite() { scratch_.reset(); }

  void SetUp() override {
    manifest_ = parse_object(read_text(folder_ / "manifest.json"), "manifest.json");
    uint64_t first = 0;
    for (const auto& [file, documents] : manifest_.at("files").items())
      first_of_[file] = first, first += documents.get<uint64_t>();
  }

  // visit(file's first id, its documents) in the order of ids.
  template <class Visit>
  void for_each_file(const Visit& visit) const {
    for (const auto& [file, documents] : manifest_.at("files").items()) {
      const std::vector<std::string> texts = read_documents(folder_ / file);
      ASSERT_EQ(texts.size(), documents.template get<size_t>()) << file;
      visit(first_of_.at(file), texts);
    }
  }
  uint64_t id_of(const Json& place) const {
    return first_of_.at(place.at(0).get<std::string>()) + place.at(1).get<uint64_t>();
  }

  static inline std::unique_ptr<Scratch> scratch_;
  static inline fs::path folder_;
  Json manifest_;
  std::map<std::string, uint64_t> first_of_;
};

TEST_F(PlantedCorpus, copies_are_found_and_distinct_documents_stay) {
  const NearDuplicates::Options options;
  Threads threads(2);
  NearDuplicates near(scratch_->path(), options, 2);
  double seconds = 0, bytes = 0;
  for_each_file([&](uint64_t first, const std::vector<std::string>& texts) {
    std::vector<std::vector<uint32_t>> signatures(texts.size());
    const double start = monotonic_seconds();
    threads.for_each(int64_t(texts.size()), [&](int64_t i) {
      signatures[size_t(i)] = NearDuplicates::signature(normalised(texts[size_t(i)]), options);
    });
    seconds += monotonic_seconds() - start;
    for (size_t i = 0; i < texts.size(); ++i) near.add(first + i, signatures[i]), bytes += double(texts[i].size());
  });
  const double start = monotonic_seconds();
  const std::vector<uint64_t> list = near.duplicates();
  std::printf("signatures %.0f MB/s, clusters %.2f s\n", bytes / seconds / 1e6, monotonic_seconds() - start);
  const std::set<uint64_t> dropped(list.begin(), list.end());
  std::map<int, std::pair<int, int>> by_tenth;  // of the Jaccard index: pairs, found
  std::set<uint64_t> of_pairs;
  int alike = 0, found = 0, lost = 0;
  for (const Json& pair : manifest_.at("pairs")) {
    const uint64_t a = id_of(pair.at("a")), b = id_of(pair.at("b"));
    const bool is_found = dropped.count(a) || dropped.count(b);
    const double jaccard = pair.at("jaccard").get<double>();
    auto& [all, those] = by_tenth[int(jaccard * 10)];
    ++all, those += is_found;
    if (jaccard >= options.jaccard) ++alike, found += is_found;
    of_pairs.insert({a, b});
    lost += dropped.count(a) && dropped.count(b);
  }
  for (const Json& other : manifest_.at("planted")) of_pairs.insert(id_of(other.at("at")));
  for (const uint64_t id : dropped) lost += !of_pairs.count(id);
  for (const auto& [tenth, counts] : by_tenth)
    std::printf("Jaccard index from %.1f: %d of %d found\n", tenth / 10.0, counts.second, counts.first);
  const int distinct = manifest_.at("distinct").get<int>();
  std::printf("%d of %d pairs from %.1f on found (%.2f %%), %d of %d distinct documents lost (%.4f %%)\n", found, alike,
              options.jaccard, 100.0 * found / alike, lost, distinct, 100.0 * lost / distinct);
  EXPECT_GE(found, 0.95 * alike);
  EXPECT_LT(lost, 0.001 * distinct);
}

TEST_F(PlantedCorpus, evaluation_texts_are_found) {
  Windows windows;
  for (const std::string& text : read_documents(folder_ / "evaluation.jsonl")) windows.add(normalised(text));
  windows.finish();
  std::set<uint64_t> found, expected;
  Threads threads(2);
  double seconds = 0, bytes = 0;
  for_each_file([&](uint64_t first, const std::vector<std::string>& texts) {
    std::vector<char> hit(texts.size());
    const double start = monotonic_seconds();
    threads.for_each(int64_t(texts.size()),
                     [&](int64_t i) { hit[size_t(i)] = windows.occurs_in(normalised(texts[size_t(i)])); });
    seconds += monotonic_seconds() - start;
    for (size_t i = 0; i < texts.size(); ++i) bytes += double(texts[i].size());
    for (size_t i = 0; i < texts.size(); ++i)
      if (hit[i]) found.insert(first + i);
  });
  for (const Json& other : manifest_.at("planted")) {
    const auto kind = other.at("kind").get<std::string>();
    if (kind == "evaluation text" || kind == "evaluation excerpt") expected.insert(id_of(other.at("at")));
  }
  std::printf("%zu leaks in %.0f MB, %lld windows, %.0f MB/s\n", found.size(), bytes / 1e6,
              static_cast<long long>(windows.size()), bytes / seconds / 1e6);
  EXPECT_EQ(found, expected);
}

TEST_F(PlantedCorpus, prepared_data_passes_the_judge) {
  const fs::path out = *scratch_ / "prepared", tokenizer = fs::path(FULGUR_SOURCE) / "data/tiny/tokenizer";
  const std::string judge = FULGUR_SOURCE "/tests/judge_planted.py", config = (folder_ / "prepare.toml").string();
  Child prepare({program(), "data", "prepare", config, "--set", "prepare.out=\"" + out.string() + "\""},
                *scratch_ / "run");
  const Finished prepared = prepare.wait(3600);
  ASSERT_EQ(prepared.exit, 0) << prepared.err;
  Child child(
      {"/usr/bin/env", "python3", judge, folder_.string(), out.string(), (tokenizer / "tokenizer.json").string()},
      *scratch_ / "judge");
  const Finished judged = child.wait(3600);
  std::printf("%s%s", prepared.out.c_str(), judged.out.c_str());
  EXPECT_EQ(judged.exit, 0) << judged.err;
}

}  // namespace
}  // namespace fulgur::tests

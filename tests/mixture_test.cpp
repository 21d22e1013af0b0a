// Mixtures of sources: weights that hold over any 1,000 rows, stages, rows that are a function of their number, and
// the batches, rates and skipped rows of a run's course.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>

#include "base/random.h"
#include "data/mixed_rows.h"
#include "tests/prepared.h"
#include "tests/scratch.h"
#include "train/run_course.h"
#include "train/spike_watch.h"
#include "train/trainer.h"

namespace fulgur::tests {
namespace {

using Weights = std::vector<double>;

std::vector<int32_t> sources_of(Mixture& mixture, int64_t begin, int64_t end) {
  std::vector<int32_t> sources;
  for (int64_t row = begin; row < end; ++row) sources.push_back(mixture.at(row).source);
  return sources;
}

// The largest difference, in rows of any 1,000 in a row, between what a source has and what its weights, of every row,
// demand.
double worst_window(const std::vector<int32_t>& sources, const std::vector<Weights>& weights) {
  double worst = 0;
  for (size_t s = 0; s < weights.front().size(); ++s) {
    std::vector<double> ahead{0};
    for (size_t i = 0; i < sources.size(); ++i)
      ahead.push_back(ahead.back() + double(sources[i] == int32_t(s)) -
                      weights[i][s] / std::accumulate(weights[i].begin(), weights[i].end(), 0.0));
    for (size_t i = 1000; i < ahead.size(); ++i) worst = std::max(worst, std::abs(ahead[i] - ahead[i - 1000]));
  }
  return worst;
}

Weights drawn(uint64_t seed, size_t count) {
  Weights weights;
  for (size_t s = 0; s < count; ++s) {
    const PhiloxBlock draw = philox(seed, s, 1);
    weights.push_back(unit_interval(draw[0]) * (draw[1] % 4 == 0 ? 1e-3 : 1));
  }
  return weights;
}

TEST(Mixture, weights_hold_within_a_thousandth_over_any_thousand_rows) {
  std::vector<Weights> all{{1, 1, 1}, {0.55123, 0.33371, 0.11506},           {M_PI, M_E, 0.0004}, {0.6, 0.4},
                           {7},       {0.1, 0.2, 0.7, 0.0123, 1e-5, 0.25, 3}};
  for (uint64_t i = 0; i < 20; ++i) all.push_back(drawn(i, 2 + i % 4));
  for (const Weights& weights : all) {
    Mixture mixture({{0, weights}});
    for (const int64_t begin : {0, 12'345'678}) {
      const double worst =
          worst_window(sources_of(mixture, begin, begin + 12'345), std::vector<Weights>(12'345, weights));
      EXPECT_LE(worst, 1 + 1e-6) << "rows of 1,000, from " << begin << ", first weight " << weights.front();
    }
  }
}

// Stages of lengths between the two, their weights drawn, some of them 0.
struct DrawnCourse {
  std::vector<MixtureStage> stages;
  std::vector<Weights> rows;  // the weights of each row
};
DrawnCourse drawn_course(uint64_t seed, size_t stages, size_t sources, int64_t shortest, int64_t longest) {
  DrawnCourse course;
  for (uint64_t s = 0; s < stages; ++s) {
    const PhiloxBlock draw = philox(seed, s, 2);
    course.stages.push_back({int64_t(course.rows.size()), drawn(seed * stages + s, sources)});
    if (draw[0] % 3 == 0) course.stages.back().weights[draw[1] % sources] = 0;
    course.rows.resize(course.rows.size() + size_t(shortest + draw[2] % (longest - shortest)),
                       course.stages.back().weights);
  }
  return course;
}

TEST(Mixture, weights_hold_where_stages_meet) {
  constexpr size_t kSources[] = {2, 3, 4, 5, 8};
  const char* courses = std::getenv("FULGUR_COURSES");  // by hand: more of them
  std::map<size_t, double> worst;                       // by the number of sources
  for (uint64_t i = 0; i < (courses ? std::stoull(courses) : 20); ++i) {
    const size_t sources = kSources[i % std::size(kSources)];
    const DrawnCourse course = drawn_course(i, 3, sources, 1500, 14'000);
    Mixture mixture(course.stages);
    const std::vector<int32_t> order = sources_of(mixture, 0, int64_t(course.rows.size()));
    for (size_t s = 0; s < course.stages.size(); ++s) {
      const auto begin = order.begin() + course.stages[s].first_row;
      const auto end = s + 1 < course.stages.size() ? order.begin() + course.stages[s + 1].first_row : order.end();
      EXPECT_LE(worst_window({begin, end}, std::vector<Weights>(size_t(end - begin), course.stages[s].weights)),
                1 + 1e-6)
          << "within a stage";
    }
    worst[sources] = std::max(worst[sources], worst_window(order, course.rows));
  }
  for (const auto& [sources, rows] : worst) {
    std::printf("%zu sources: at most %.3f rows of 1,000 off their weights where stages meet\n", sources, rows);
    EXPECT_LE(rows, sources == 2 ? 1.1 : 2.5) << sources << " sources";
  }
}

// What one stage owes the next gives: however many there are, no source is more than two rows away from its weights.
TEST(Mixture, short_stages_carry_what_they_owe) {
  for (uint64_t i = 0; i < 4; ++i) {
    const DrawnCourse course = drawn_course(100 + i, 24, 3, 1, 700);
    Mixture mixture(course.stages);
    std::vector<double> owed(3);
    for (size_t row = 0; row < course.rows.size(); ++row) {
      const Weights& weights = course.rows[row];
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      const int32_t source = mixture.at(int64_t(row)).source;
      EXPECT_GT(weights[size_t(source)], 0) << "a weight of 0 keeps a source out";
      for (size_t s = 0; s < 3; ++s) {
        owed[s] += weights[s] / sum - double(int32_t(s) == source);
        EXPECT_LE(std::abs(owed[s]), 2) << "row " << row << ", source " << s;
      }
    }
  }
}

TEST(Mixture, a_row_is_a_function_of_its_number) {
  const std::vector<MixtureStage> stages{{0, {0.5, 0.3, 0.2}}, {1234, {0, 0.3, 0.7}}, {1300, {1, 1, 0.01}}};
  Mixture forth(stages), back(stages);
  std::vector<MixedRow> rows;
  std::vector<int64_t> seen(3);
  for (int64_t i = 0; i < 6000; ++i) {
    rows.push_back(forth.at(i));
    EXPECT_EQ(rows.back().row, seen[size_t(rows.back().source)]++) << "the source's rows come one after another";
    EXPECT_FALSE(i >= 1234 && i < 1300 && rows.back().source == 0) << "a weight of 0 keeps a source out";
  }
  EXPECT_EQ(forth.rows_before(6000), seen);
  for (int64_t i = 6000; (i -= 597) > 0;) {
    EXPECT_EQ(back.at(i).source, rows[size_t(i)].source);
    EXPECT_EQ(back.at(i).row, rows[size_t(i)].row);
  }
}

TEST(Mixture, no_error_adds_up) {
  const Weights weights{0.61803, 0.38187, 0.0001};
  Mixture mixture({{0, weights}});
  for (const int64_t rows : {999, 50'000, 1'000'003, 20'000'000}) {
    const std::vector<int64_t> before = mixture.rows_before(rows);
    for (size_t s = 0; s < 3; ++s) EXPECT_NEAR(double(before[s]), double(rows) * weights[s], 3);
  }
}

TEST(MixedRows, are_the_packed_rows_of_each_source) {
  std::vector<TokenizedDocuments> documents(2);
  for (int32_t d = 0; d < 9; ++d) documents[size_t(d % 2)].add(std::vector<int32_t>(size_t(3 + d * 5), d));
  MixedRows mixed({{"a", 1, list_of(documents[0])}, {"b", 1, list_of(documents[1])}}, {{0, {3, 1}}}, 16, 7, 9);
  std::vector<PackedRows> alone;
  for (const TokenizedDocuments& source : documents) alone.emplace_back(source, 16, 7);
  Mixture order({{0, {3, 1}}});
  for (int64_t i = 0; i < 40; ++i) {
    const MixedRow at = order.at(i);
    EXPECT_EQ(mixed.row(i).tokens, alone[size_t(at.source)].row(at.row).tokens);
  }
  EXPECT_EQ(mixed.epochs_before(40)[1], 10 * 16 / double(documents[1].tokens.size()));
  MixedRows small({{"a", 1, list_of(documents[0])}}, {{0, {1}}}, 16, 7, 8);
  expect_error(ErrorKind::corrupt_file, {"source a", "token 8", "0 to 7"}, [&] {
    for (int64_t i = 0; i < 8; ++i) small.row(i);
  });
}

// Configurations of the tiny model.
RunConfig configured(std::vector<std::string> settings) {
  return read_run_config(std::string(FULGUR_SOURCE) + "/configs/tiny.toml", settings);
}

const std::string kRamp =
    "train.batch_ramp=[{from_step=4, tokens_per_step=4096}, {from_tokens=30000, tokens_per_step=8192}]";

TEST(BatchRamp, counts_the_tokens_of_steps) {
  const RunConfig run = configured({kRamp, "train.steps=12"});
  int64_t tokens = 0;
  for (int64_t step = 1; step <= 12; ++step) {
    const int64_t expected = step < 4 ? 2048 : tokens < 30'000 ? 4096 : 8192;
    EXPECT_EQ(run.tokens_in(step), expected) << step;
    EXPECT_EQ(run.tokens_through(step), tokens += expected) << step;
  }
  EXPECT_EQ(run.batch_ramp[1].first_step, 10);
  EXPECT_EQ(run.largest_batch(), 8192);
  EXPECT_EQ(configured({kRamp, "train.steps=9"}).largest_batch(), 4096) << "the memory of batches that come";
}

// 16M tokens a step, 32M from 69 G tokens on, 64M from 790 G, 128M from 4.7 T.
TEST(BatchRamp, of_minimax) {
  const RunConfig run = read_run_config(std::string(FULGUR_SOURCE) + "/configs/minimax-text-01.toml", {});
  const int64_t m = 1 << 20;
  ASSERT_EQ(run.batch_ramp.size(), 3u);
  EXPECT_EQ(run.tokens_in(1), 16 * m);
  for (const auto& [entry, at, tokens] :
       {std::tuple{0, int64_t(69e9), 32 * m}, {1, int64_t(790e9), 64 * m}, {2, int64_t(4.7e12), 128 * m}}) {
    const int64_t first = run.batch_ramp[size_t(entry)].first_step;
    EXPECT_GE(run.tokens_through(first - 1), at);
    EXPECT_LT(run.tokens_through(first - 2), at);
    EXPECT_EQ(run.tokens_in(first), tokens);
  }
  EXPECT_NEAR(double(run.tokens_through(run.steps)), 11.4e12, 1e9);
  EXPECT_EQ(learning_rate(run, 250), 1e-4) << "the warm-up counts steps";
  EXPECT_EQ(learning_rate(run, 501), 2e-4);
  const double left = double(run.tokens_through(run.steps) - run.tokens_through(run.steps - 4000));
  EXPECT_NEAR(learning_rate(run, run.steps - 4000), 2e-4 * std::pow(0.15, 1 - left / 1e12), 1e-10)
      << "the decay counts tokens";
  EXPECT_NEAR(learning_rate(run, run.steps), 3e-5, 1e-12);
}

TEST(LearningRate, by_tokens_is_that_by_steps_where_batches_are_equal_and_ignores_how_they_are_cut) {
  for (const std::string schedule : {"cosine", "wsd", "exponential"}) {
    const std::string kind = "train.schedule=" + schedule;
    const RunConfig steps = configured({kind, "train.warmup=5", "train.decay=20"});
    RunConfig tokens = steps;
    tokens.warmup *= 2048, tokens.decay *= 2048, tokens.warmup_in_tokens = tokens.decay_in_tokens = true;
    RunConfig cut = tokens;
    cut.tokens_per_step = 1024, cut.steps = 80;
    for (int64_t step = 1; step <= 40; ++step) {
      EXPECT_NEAR(learning_rate(tokens, step), learning_rate(steps, step), 1e-12) << schedule << " " << step;
      if (schedule != "wsd") {  // which ends one step short of its last rate
        EXPECT_NEAR(learning_rate(cut, 2 * step), learning_rate(steps, step), 1e-12) << schedule << " " << step;
      }
    }
  }
}

TEST(Course, what_is_not_understood_is_refused) {
  const auto refused = [](const std::vector<std::string>& settings, const std::vector<std::string>& words) {
    expect_error(ErrorKind::invalid_input, words, [&] { configured(settings); });
  };
  refused({"train.batch_ramp=3"}, {"train.batch_ramp", "list"});
  refused({"train.batch_ramp=[{from_step=2}]"}, {"train.batch_ramp[0].tokens_per_step"});
  refused({"train.batch_ramp=[{from=2, tokens_per_step=256}]"}, {"train.batch_ramp[0].from", "from_step"});
  refused({"train.batch_ramp=[{from_step=2, tokens_per_step=300}]"}, {"train.batch_ramp[0].tokens_per_step = 300"});
  refused({"train.batch_ramp=[{from_step=2, tokens_per_step=256}]"}, {"train.micro_rows = 2"});
  refused({"train.batch_ramp=[{from_step=2, from_tokens=3, tokens_per_step=512}]"}, {"one of from_step"});
  refused({"train.batch_ramp=[{from_step=5, tokens_per_step=512}, {from_tokens=1, tokens_per_step=512}]"},
          {"train.batch_ramp[1].from_tokens", "step 2", "after step 5"});
  refused({"train.warmup_tokens=3"}, {"train.warmup", "one of them"});
  refused({"train.schedule=exponential", "train.decay_tokens=80000"}, {"train.decay_tokens", "71680 tokens"});
  refused({"data.weights={a=-1}"}, {"data.weights.a"});
  refused({"data.weights={a=0}"}, {"data.weights", "above 0"});
  refused({"data.stage=[{from_step=2}]"}, {"data.stage[0].weights"});
  refused({"data.stage=[{from_step=9, weights={a=1}}, {from_tokens=2048, weights={a=1}}]"}, {"data.stage[1]"});
  refused({"train.spike={window=8}"}, {"train.spike.rewind_steps"});
  refused({"train.spike={window=8, sigma=0, rewind_steps=0, max=1}"}, {"train.spike.sigma"});
  refused({"train.spike={window=8, sigma=6, rewind_steps=5, max=1}", "train.save_every=4"},
          {"train.spike.rewind_steps = 5", "= 4 steps"});
  refused({"train.spike={window=8, factor=3}"}, {"train.spike.factor", "sigma"});
}

TEST(Course, sources_are_named) {
  const Scratch scratch;
  const std::vector<int32_t> document(40, 3);
  prepare(scratch / "p", {{"en", 3, {{document}}}, {"zh", 1, {{document}}}});
  const RunCorpus corpus = read_run_corpus(tiny_tokenizer(), {{(scratch / "p").string()}}, {});
  const std::vector<TrainingSource> sources = training_sources(corpus);
  EXPECT_EQ(mixture_stages(configured({}), sources).front().weights, (Weights{3, 1})) << "those it was prepared with";
  const std::vector<MixtureStage> stages = mixture_stages(
      configured({"data.weights={zh=2, en=1}", "data.stage=[{from_tokens=2049, weights={en=1, zh=0}}]"}), sources);
  EXPECT_EQ(stages[0].weights, (Weights{1, 2}));
  EXPECT_EQ(stages[1].first_row, 9) << "the first row that begins there or later";
  EXPECT_EQ(stages[1].weights, (Weights{1, 0}));
  expect_error(ErrorKind::invalid_input, {"data.weights", "the source zh"},
               [&] { mixture_stages(configured({"data.weights={en=1}"}), sources); });
  expect_error(ErrorKind::invalid_input, {"data.stage[0].weights.fr", "en, zh"}, [&] {
    mixture_stages(configured({"data.stage=[{from_step=2, weights={en=1, zh=1, fr=1}}]"}), sources);
  });
  const std::vector<CorpusFile> twice{{(scratch / "p").string()}, {(scratch / "p").string()}};
  expect_error(ErrorKind::invalid_input, {"two sources are named en"},
               [&] { training_sources(read_run_corpus(tiny_tokenizer(), twice, {})); });
  expect_error(ErrorKind::invalid_input, {"data.weights"}, [&] {
    read_run_corpus(tiny_tokenizer(), {{(scratch / "p").string(), 2}}, {});
  });
  TokenIndex index = read_token_index(scratch / "p");
  index.tokenizer_digest = "7";
  write_token_index(scratch / "p", index);
  expect_error(ErrorKind::invalid_input, {"tokenizer 7", "data.tokenizer"},
               [&] { read_run_corpus(tiny_tokenizer(), {{(scratch / "p").string()}}, {}); });
}

TEST(Course, sample_configuration) {
  const RunConfig run = read_run_config(std::string(FULGUR_SOURCE) + "/configs/stages.toml", {});
  EXPECT_EQ(run.batch_ramp.size(), 2u);
  EXPECT_EQ(run.stages.size(), 1u);
  EXPECT_EQ(run.spike.window, 32);
}

TEST(SpikeWatch, judges_by_the_last_steps_and_counts_rows_around_what_is_left_out) {
  SpikeWatch watch({.window = 4, .sigma = 3, .rewind_steps = 1, .max = 3});
  const auto took = [&](double loss, double norm) {
    StepReport report;
    report.loss = loss, report.gradient_norm = norm;
    watch.note(report);
  };
  for (const double loss : {100, 1, 3, 1}) {
    EXPECT_EQ(watch.bounds()->loss, INFINITY);
    took(loss, 2 * loss);
  }
  took(3, 6);
  EXPECT_DOUBLE_EQ(watch.bounds()->loss, 2 + 3 * 1);
  EXPECT_DOUBLE_EQ(watch.bounds()->gradient_norm, 4 + 3 * 2);
  EXPECT_FALSE(SpikeWatch().bounds());

  watch.skip({.begin = 8, .end = 16, .step = 4});
  watch.skip({.begin = 32, .end = 40, .step = 7});
  EXPECT_EQ(watch.row_at(7), 7);
  EXPECT_EQ(watch.row_at(8), 16);
  EXPECT_EQ(watch.row_at(23), 31);
  EXPECT_EQ(watch.row_at(24), 40);
  EXPECT_EQ(watch.skipped_before(24)->step, 7);
  EXPECT_EQ(watch.skipped_before(23), nullptr);
  watch.skip({.begin = 16, .end = 40, .step = 8});
  ASSERT_EQ(watch.state().skipped.size(), 1u) << "what touches is one range";
  EXPECT_EQ(watch.row_at(8), 40);
  EXPECT_EQ(watch.state().skipped[0].spikes, 3);
  expect_error(ErrorKind::invalid_input, {"step 9", "spike 4", "train.spike.max is 3"},
               [&] { watch.skip({.begin = 80, .end = 81, .step = 9}); });
}

}  // namespace
}  // namespace fulgur::tests

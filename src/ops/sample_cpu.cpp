// A row is ranked by logit, descending, the lower id first among equals; only as much of it as the draw needs, and not
// at all where temperature alone decides: then tokens are drawn in the order of their ids. Sums are f64: of what top_k
// leaves in sixteen lanes, of what is kept and drawn in the order of the draw. NaN counts as -infinity, which
// is never drawn unless nothing else is left: then the lowest id that is not suppressed.
#include "ops/sample.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "ops/cpu/rows.h"

namespace fulgur::cpu {
namespace {

// Room for one row at a time.
struct Scratch {
  std::vector<int32_t> listed;  // candidates where they had to be picked, ascending
  std::vector<float> logits;    // of candidates, side by side where they do not lie so
  std::vector<int32_t> ids;     // candidates, ascending; later ranked from the front as far as needed
  std::vector<double> powers;   // exp((logit - greatest) / temperature) of the candidates in their order
  std::vector<double> chances;  // the same, by id
  std::vector<std::pair<double, int32_t>> surprises;  // distance from the mean surprise, and id
};

struct Choice {
  double temperature;
  int64_t top_k;
  double typical_p, top_p, min_p, uniform;
};

class Ranking {
 public:
  Ranking(std::vector<int32_t>& ids, const float* logits) : ids_(&ids), logits_(logits) {}

  // The id at a rank; ranks are asked for in ascending order.
  int32_t operator[](int64_t rank) {
    if (rank >= sorted_) sort_to(std::max<int64_t>(64, 4 * sorted_));
    return (*ids_)[size_t(rank)];
  }

  // Forgets all but the first `count`.
  void cut(int64_t count) {
    if (count > sorted_) sort_to(count);
    ids_->resize(size_t(count));
  }

 private:
  void sort_to(int64_t rank) {
    const auto before = [this](int32_t a, int32_t b) {
      return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
    };
    const auto from = ids_->begin() + sorted_, to = ids_->begin() + std::min(rank, int64_t(ids_->size()));
    if (16 * (to - from) < ids_->end() - from) {
      std::partial_sort(from, to, ids_->end(), before);  // the quickest for a few of many
    } else {
      if (to != ids_->end()) std::nth_element(from, to, ids_->end(), before);
      std::sort(from, to, before);
    }
    sorted_ = to - ids_->begin();
  }

  std::vector<int32_t>* ids_;
  const float* logits_;
  int64_t sorted_ = 0;
};

// The tokens that can be drawn and their logits.
struct Candidates {
  const int32_t* ids;
  const float* logits;
  int64_t count;
  int32_t best = -1;  // the first of the greatest logits, or -1 where there is none
};

// Those of `allowed`, whose logits these are, that are not -infinity or NaN.
Candidates listed(Scratch& scratch, const float* logits, const std::vector<int32_t>& allowed) {
  scratch.listed.resize(allowed.size());
  int64_t count = 0;
  int32_t best = -1;
  float greatest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < allowed.size(); ++i) {
    const float logit = logits[i];
    if (!(logit > -std::numeric_limits<float>::infinity())) continue;
    scratch.listed[size_t(count)] = allowed[i], scratch.logits[size_t(count)] = logit;
    ++count;
    if (logit > greatest) best = allowed[i], greatest = logit;
  }
  return {scratch.listed.data(), scratch.logits.data(), count, best};
}

Candidates candidates_of(Scratch& scratch, const float* logits, int64_t vocab, const std::vector<int32_t>& allowed) {
  const int64_t count = int64_t(allowed.size());
  if (count < vocab) {
    for (size_t i = 0; i < allowed.size(); ++i) scratch.logits[i] = logits[allowed[i]];
    logits = scratch.logits.data();
  }
  if (!std::isfinite(row_sum(logits, count))) return listed(scratch, logits, allowed);
  const int64_t best = std::find(logits, logits + count, row_max(logits, count)) - logits;
  return {allowed.data(), logits, count, allowed[size_t(best)]};
}

// The first ranks.
Candidates cut(Scratch& scratch, Ranking& ranking, const float* logits, const Candidates& found, int64_t count) {
  ranking.cut(count);
  for (size_t i = 0; i < size_t(count); ++i) scratch.logits[i] = logits[scratch.ids[i]];
  return {scratch.ids.data(), scratch.logits.data(), count, found.best};
}

// Fills in powers; returns their sum.
double weigh(Scratch& scratch, const Candidates& found, float greatest, double temperature) {
  double* const powers = scratch.powers.data();
  row_tempered(powers, found.logits, greatest, temperature, found.count);
  row_exp<double>(powers, powers, found.count);
  return row_sum<double>(powers, found.count);
}

// Leaves the tokens whose surprise is nearest to the entropy, as many as reach typical_p of the whole, by id; returns
// their sum. Tokens without a chance have no surprise.
double keep_typical(Scratch& scratch, double whole, double typical_p) {
  const double log_whole = std::log(whole);
  double entropy = 0;
  for (size_t i = 0; i < scratch.ids.size(); ++i)
    if (const double power = scratch.powers[i]; power > 0) entropy += power / whole * (log_whole - std::log(power));
  std::vector<std::pair<double, int32_t>>& surprises = scratch.surprises;
  surprises.clear();
  for (size_t i = 0; i < scratch.ids.size(); ++i) {
    const double power = scratch.powers[i];
    scratch.chances[size_t(scratch.ids[i])] = power;
    if (power > 0) surprises.emplace_back(std::abs(log_whole - std::log(power) - entropy), scratch.ids[i]);
  }
  std::sort(surprises.begin(), surprises.end());
  double sum = 0;
  scratch.ids.clear();
  for (const auto& [distance, id] : surprises) {
    if (sum >= typical_p * whole) break;
    sum += scratch.chances[size_t(id)];
    scratch.ids.push_back(id);
  }
  std::sort(scratch.ids.begin(), scratch.ids.end());
  for (size_t i = 0; i < scratch.ids.size(); ++i) scratch.powers[i] = scratch.chances[size_t(scratch.ids[i])];
  return sum;
}

// Ranks [0, count) are kept, and weigh `sum` together.
struct Kept {
  int64_t count;
  double sum;
};

Kept keep(Ranking& ranking, const Scratch& scratch, double whole, const Choice& choice) {
  const int64_t count = int64_t(scratch.ids.size());
  const double enough = choice.top_p < 1 ? choice.top_p * whole : std::numeric_limits<double>::infinity();
  double sum = 0, least = 0;
  for (int64_t rank = 0; rank < count; ++rank) {
    const double chance = scratch.chances[size_t(ranking[rank])];
    if (rank == 0) least = choice.min_p * chance;
    if (rank > 0 && (sum >= enough || chance < least)) return {rank, sum};
    sum += chance;
  }
  return {count, sum};
}

// The first of 0 ... count - 1 with which the chances reach `until`, or the last that has a chance: rounding may leave
// their sum short.
template <class ChanceOf>
int64_t draw(int64_t count, double until, const ChanceOf& chance_of) {
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double chance = chance_of(i);
    if (chance == 0) continue;
    last = i;
    sum += chance;
    if (sum >= until) break;
  }
  return last;
}

int32_t sample_row(Scratch& scratch, const float* logits, int64_t vocab, const std::vector<int32_t>& allowed,
                   const Choice& choice) {
  Candidates found = candidates_of(scratch, logits, vocab, allowed);
  if (found.best < 0) return allowed.front();
  if (choice.temperature == 0 || choice.top_k == 1) return found.best;
  const bool filters = choice.typical_p < 1 || choice.top_p < 1 || choice.min_p > 0;
  const bool cuts = choice.top_k > 0 && choice.top_k < found.count;
  if (filters || cuts) scratch.ids.assign(found.ids, found.ids + found.count);
  Ranking ranking(scratch.ids, logits);
  if (cuts) found = cut(scratch, ranking, logits, found, choice.top_k);
  double whole = weigh(scratch, found, logits[found.best], choice.temperature);
  if (!filters)
    return found.ids[draw(found.count, choice.uniform * whole, [&](int64_t i) { return scratch.powers[size_t(i)]; })];
  if (choice.typical_p < 1) {
    whole = keep_typical(scratch, whole, choice.typical_p);
    ranking = Ranking(scratch.ids, logits);
  }
  for (size_t i = 0; i < scratch.ids.size(); ++i) scratch.chances[size_t(scratch.ids[i])] = scratch.powers[i];
  const Kept kept = keep(ranking, scratch, whole, choice);
  const auto chance_of = [&](int64_t rank) { return scratch.chances[size_t(ranking[rank])]; };
  return ranking[draw(kept.count, choice.uniform * kept.sum, chance_of)];
}

// What the rows ask for, judged before threads start.
std::vector<Choice> choices_of(const Sample& op) {
  const float *temperature = op.temperature.elements<float>(), *typical_p = op.typical_p.elements<float>();
  const float *top_p = op.top_p.elements<float>(), *min_p = op.min_p.elements<float>();
  const int32_t* top_k = op.top_k.elements<int32_t>();
  const Rows<int64_t> keys = rows_of<int64_t>(op.keys);
  std::vector<Choice> choices;
  for (int64_t row = 0; row < keys.count; ++row) {
    expect(temperature[row] >= 0 && top_k[row] >= 0, "temperature and top_k are not negative");
    expect(typical_p[row] > 0 && typical_p[row] <= 1, "typical_p is in (0, 1]");
    expect(top_p[row] > 0 && top_p[row] <= 1, "top_p is in (0, 1]");
    expect(min_p[row] >= 0 && min_p[row] <= 1, "min_p is in [0, 1]");
    const int64_t *key = keys[row], seed = key[0], sequence = key[1], position = key[2];
    choices.push_back({temperature[row], top_k[row], typical_p[row], top_p[row], min_p[row],
                       unit_interval(philox(uint64_t(seed), uint64_t(position), uint64_t(sequence))[0])});
  }
  return choices;
}

// Ids that may be drawn, ascending.
std::vector<int32_t> allowed_of(const Sample& op) {
  std::vector<char> suppressed(size_t(op.logits.dim(1)), 0);
  const int64_t count = op.suppressed ? op.suppressed.dim(0) : 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = op.suppressed.elements<int32_t>()[i];
    if (id >= 0 && size_t(id) < suppressed.size()) suppressed[size_t(id)] = 1;
  }
  std::vector<int32_t> allowed;
  for (size_t id = 0; id < suppressed.size(); ++id)
    if (suppressed[id] == 0) allowed.push_back(int32_t(id));
  expect(!allowed.empty(), "some token may be drawn");
  return allowed;
}

}  // namespace

void sample(Stream& stream, const Sample& op) {
  const Rows<float> logits = rows_of<float>(op.logits);
  const std::vector<Choice> choices = choices_of(op);
  const std::vector<int32_t> allowed = allowed_of(op);
  int32_t* tokens = op.tokens.elements<int32_t>();
  const int64_t threads = stream.threads().count(),
                grain = std::max<int64_t>(1, (logits.count + threads - 1) / threads);
  std::vector<Scratch> scratch(size_t(std::min(threads, logits.count)));
  for (Scratch& one : scratch) {
    const size_t vocab = size_t(logits.width);
    one.logits.resize(vocab), one.powers.resize(vocab), one.chances.resize(vocab);
  }
  stream.threads().for_ranges(logits.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      tokens[row] =
          sample_row(scratch[size_t(begin / grain)], logits[row], logits.width, allowed, choices[size_t(row)]);
  });
}

}  // namespace fulgur::cpu

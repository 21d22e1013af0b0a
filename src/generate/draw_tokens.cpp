#include "generate/draw_tokens.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "device/profiler_range.h"
#include "device/transfer.h"
#include "model/model.h"
#include "ops/edit_logits.h"
#include "ops/sample.h"
#include "ops/take_rows.h"
#include "ops/token_log_probs.h"

namespace fulgur {
namespace {

// A row from which a token is drawn that would stand at `position` of its sequence.
struct Drawing {
  Sequence* sequence;
  int64_t position;
};

// The wanted rows end to end, in scratch unless the logits are nothing else.
Tensor rows_that_draw(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor logits) {
  std::vector<int32_t> rows;
  int32_t output = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    output += int32_t(layout.outputs[i]);
    for (int32_t row = output - int32_t(shares[i].drawing_rows()); row < output; ++row) rows.push_back(row);
  }
  if (rows.empty() || int64_t(rows.size()) == logits.dim(0)) return logits;
  const Tensor wanted = exec.scratch.alloc(logits.dtype, {int64_t(rows.size()), logits.dim(1)});
  take_rows(exec.stream, {.y = wanted, .x = logits, .rows = upload(exec.stream, exec.scratch, rows)});
  return wanted;
}

// What penalties and biases do to a row: by id, the divisor and the offset.
std::map<int32_t, std::pair<float, float>> edits_of(const Sequence& s) {
  std::map<int32_t, std::pair<float, float>> edits;
  const auto edit = [&](int32_t id) -> std::pair<float, float>& {
    return edits.try_emplace(id, 1.0f, 0.0f).first->second;
  };
  const Sampling& how = s.sampling;
  if (how.repetition_penalty != 1)
    for (const int32_t id : s.tokens) edit(id).first = how.repetition_penalty;
  if (how.presence_penalty != 0 || how.frequency_penalty != 0) {
    std::map<int32_t, int64_t> uses;
    for (size_t i = size_t(s.answer_begin); i < s.tokens.size(); ++i) ++uses[s.tokens[i]];
    for (const auto& [id, count] : uses)
      edit(id).second = -(how.presence_penalty + how.frequency_penalty * float(count));
  }
  for (const auto& [id, bias] : how.logit_bias) edit(id).second += bias;
  return edits;
}

void edit_rows(Exec& exec, const std::vector<Drawing>& drawing, Tensor logits) {
  std::vector<int32_t> places;
  std::vector<float> divisors, offsets;
  for (size_t row = 0; row < drawing.size(); ++row)
    for (const auto& [id, change] : edits_of(*drawing[row].sequence)) {
      places.insert(places.end(), {int32_t(row), id});
      divisors.push_back(change.first), offsets.push_back(change.second);
    }
  if (offsets.empty()) return;
  Uploads uploads(exec.scratch);
  const EditLogits op{.logits = logits,
                      .places = uploads.add(places, {int64_t(offsets.size()), 2}),
                      .divisors = uploads.add(divisors),
                      .offsets = uploads.add(offsets)};
  uploads.send(exec.stream);
  edit_logits(exec.stream, op);
}

LogProbs log_probs_of(const std::vector<float>& logits, int32_t token, int32_t count) {
  double greatest = -INFINITY, sum = 0;
  for (const float logit : logits) greatest = std::max(greatest, double(logit));
  for (const float logit : logits) sum += std::exp(double(logit) - greatest);
  const double log_sum = greatest + std::log(sum);
  const auto log_prob = [&](int32_t id) { return float(double(logits[size_t(id)]) - log_sum); };
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i);
  const auto end = ids.begin() + std::min<int64_t>(count, int64_t(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b;
  });
  LogProbs result{log_prob(token), {}};
  for (auto id = ids.begin(); id != end; ++id) result.top.emplace_back(*id, log_prob(*id));
  return result;
}

std::vector<int32_t> draw(Exec& exec, const std::vector<Drawing>& drawing, Tensor logits, Tensor suppressed) {
  std::vector<float> temperature, typical_p, top_p, min_p;
  std::vector<int32_t> top_k;
  std::vector<int64_t> keys;
  for (const auto& [s, position] : drawing) {
    temperature.push_back(s->sampling.temperature), top_k.push_back(s->sampling.top_k);
    typical_p.push_back(s->sampling.typical_p), top_p.push_back(s->sampling.top_p);
    min_p.push_back(s->sampling.min_p);
    keys.insert(keys.end(), {int64_t(s->sampling.seed), int64_t(s->id), position});
  }
  const int64_t n = int64_t(drawing.size());
  const Tensor drawn = exec.scratch.alloc(DType::i32, {n});
  Uploads uploads(exec.scratch);
  const Sample op{.tokens = drawn,
                  .logits = logits,
                  .temperature = uploads.add(temperature),
                  .top_k = uploads.add(top_k),
                  .typical_p = uploads.add(typical_p),
                  .top_p = uploads.add(top_p),
                  .min_p = uploads.add(min_p),
                  .keys = uploads.add(keys, {n, 3}),
                  .suppressed = suppressed};
  uploads.send(exec.stream);
  sample(exec.stream, op);
  return download<int32_t>(exec.stream, drawn);
}

}  // namespace

std::vector<Sampled> draw_tokens(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor logits,
                                 Tensor suppressed) {
  const ProfilerRange phase("draw tokens");
  std::vector<Drawing> drawing;
  for (const Share& s : shares)
    for (int64_t i = 0; i < s.drawing_rows(); ++i)
      drawing.push_back({s.sequence, int64_t(s.sequence->tokens.size()) + i});
  if (drawing.empty()) return {};
  const Tensor wanted = rows_that_draw(exec, shares, layout, logits);
  std::vector<std::vector<float>> untouched(drawing.size());  // rows whose logarithms are wanted
  for (size_t i = 0; i < drawing.size(); ++i)
    if (drawing[i].sequence->log_probs >= 0) untouched[i] = download<float>(exec.stream, wanted.at(int64_t(i)));
  edit_rows(exec, drawing, wanted);
  const std::vector<int32_t> tokens = draw(exec, drawing, wanted, suppressed);
  std::vector<Sampled> fresh;
  fresh.reserve(drawing.size());
  for (size_t i = 0; i < drawing.size(); ++i) {
    const Sequence& s = *drawing[i].sequence;
    fresh.push_back({drawing[i].sequence, tokens[i]});
    if (s.log_probs >= 0) fresh.back().log_probs = log_probs_of(untouched[i], tokens[i], s.log_probs);
  }
  return fresh;
}

void keep_log_probs(Exec& exec, const std::vector<Share>& shares, const Layout& layout, Tensor logits) {
  int64_t output = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const Sequence& s = *shares[i].sequence;
    const int64_t begin = s.state.position() + 1, end = std::min(begin + shares[i].rows, int64_t(s.tokens.size()));
    if (s.next_log_probs && end > begin) {
      const Arena::Scope scope(exec.scratch);
      const std::vector<int32_t> next(s.tokens.begin() + begin, s.tokens.begin() + end);
      const Tensor log_probs = exec.scratch.alloc(logits.dtype, {end - begin});
      token_log_probs(exec.stream, {.log_probs = log_probs,
                                    .logits = logits.rows(output, output + end - begin),
                                    .tokens = upload(exec.stream, exec.scratch, next)});
      const std::vector<float> found = download<float>(exec.stream, log_probs);
      s.next_log_probs->insert(s.next_log_probs->end(), found.begin(), found.end());
    }
    output += layout.outputs[i];
  }
}

void measure_draw(Arena& scratch, DType logits, int64_t rows, int64_t tokens, int64_t vocab_size) {
  scratch.alloc(logits, {rows, vocab_size});
  for (int i = 0; i < 9; ++i) scratch.alloc(DType::i64, {rows, 3});
  const int64_t edits = std::min(tokens + kMaxBiases * rows, vocab_size * rows);
  scratch.alloc(DType::i32, {edits, 2}), scratch.alloc(DType::f32, {edits}), scratch.alloc(DType::f32, {edits});
}

void require_valid(const Sampling& s, int64_t vocab_size) {
  const auto judge = [](bool fits, const char* field, double value, const char* expected) {
    if (!fits)
      fail(ErrorKind::invalid_input, std::string(field) + " " + std::to_string(value) + ": expected " + expected);
  };
  judge(s.temperature >= 0 && s.temperature < INFINITY, "temperature", s.temperature, "a number from 0");
  judge(s.top_k >= 0, "top_k", s.top_k, "a whole number from 0");
  judge(s.typical_p > 0 && s.typical_p <= 1, "typical_p", s.typical_p, "a number above 0 and up to 1");
  judge(s.top_p > 0 && s.top_p <= 1, "top_p", s.top_p, "a number above 0 and up to 1");
  judge(s.min_p >= 0 && s.min_p <= 1, "min_p", s.min_p, "a number from 0 to 1");
  judge(s.repetition_penalty > 0 && s.repetition_penalty < INFINITY, "repetition_penalty", s.repetition_penalty,
        "a number above 0");
  judge(std::abs(s.presence_penalty) < INFINITY, "presence_penalty", s.presence_penalty, "a number");
  judge(std::abs(s.frequency_penalty) < INFINITY, "frequency_penalty", s.frequency_penalty, "a number");
  judge(int64_t(s.logit_bias.size()) <= kMaxBiases, "the number of biases", double(s.logit_bias.size()),
        "at most 1024");
  std::vector<int32_t> ids;
  for (const auto& [id, bias] : s.logit_bias) {
    judge(id >= 0 && id < vocab_size, "logit_bias of id", id, "an id of the vocabulary");
    judge(std::abs(bias) < INFINITY, "a logit_bias", bias, "a number");
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  judge(twice == ids.end(), "logit_bias of id", twice == ids.end() ? 0 : *twice, "each id once");
}

}  // namespace fulgur

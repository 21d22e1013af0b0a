#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace fulgur {

double Perplexity::bits_per_byte() const { return nats / std::numbers::ln2 / double(bytes); }
double Perplexity::per_token() const { return std::exp(nats / double(tokens)); }

EvalDocument framed(const Tokenizer& tokenizer, const std::string& document) {
  std::vector<int32_t> tokens = tokenizer.encode(document, SpecialTokens::as_text);
  if (const auto begin = tokenizer.id_of("<beginning_of_sentence>")) tokens.insert(tokens.begin(), *begin);
  auto end = tokenizer.id_of("<end_of_document>");
  if (!end) end = tokenizer.id_of("<end_of_sentence>");
  if (end) tokens.push_back(*end);
  return {std::move(tokens), int64_t(document.size())};
}

namespace {

// Finished documents wait for those before them; so many at most that a long one keeps waiting.
constexpr int64_t kWaitingPerParallel = 8;

class Reading {
 public:
  Reading(Scheduler& scheduler, const EvalDocuments& next, int64_t parallel)
      : scheduler_(scheduler), next_(next), parallel_(parallel), held_(next()) {}

  bool is_done() const { return !held_ && documents_.empty(); }

  // Begins documents as long as there is room.
  void begin() {
    while (held_ && int64_t(sessions_.size()) < parallel_ &&
           int64_t(documents_.size()) < kWaitingPerParallel * parallel_) {
      Request request{.tokens = held_->tokens, .next_log_probs = true};
      const bool is_read = request.tokens.size() < 2;  // nothing to foresee
      if (is_read) {
        tokens_read_ += int64_t(request.tokens.size());
      } else {
        const SessionId session = scheduler_.open();
        const Need need = scheduler_.need(session, request);
        if (!sessions_.empty() && pages_ + need.pages > need.all_pages) return scheduler_.close(session);
        scheduler_.ask(session, std::move(request));
        pages_ += need.pages;
        sessions_[session] = {first_ + documents_.size(), need.pages};
      }
      documents_.push_back({std::move(*held_), {}, is_read});
      held_ = next_();
    }
  }

  void step() {
    for (const Event& event : scheduler_.step()) {
      const Place place = sessions_.at(event.session);
      Document& document = documents_[place.document - first_];
      document.log_probs = scheduler_.next_log_probs(event.session), document.is_read = true;
      tokens_read_ += int64_t(document.log_probs.size()) + 1;
      pages_ -= place.pages;
      sessions_.erase(event.session);
      scheduler_.close(event.session);
    }
  }

  void hand_over(const Foreseen& done) {
    for (; !documents_.empty() && documents_.front().is_read; ++first_) {
      done(documents_.front().document, documents_.front().log_probs);
      documents_.erase(documents_.begin());
    }
  }

  int64_t tokens_read() const {
    return std::accumulate(sessions_.begin(), sessions_.end(), tokens_read_,
                           [&](int64_t sum, const auto& session) { return sum + scheduler_.position(session.first); });
  }

 private:
  struct Document {
    EvalDocument document;
    std::vector<float> log_probs;
    bool is_read;
  };
  struct Place {
    size_t document;
    int64_t pages;
  };

  Scheduler& scheduler_;
  const EvalDocuments& next_;
  const int64_t parallel_;
  std::optional<EvalDocument> held_;
  std::vector<Document> documents_;  // from number first_ on
  size_t first_ = 0;
  std::map<SessionId, Place> sessions_;
  int64_t pages_ = 0, tokens_read_ = 0;
};

}  // namespace

void foresee(Scheduler& scheduler, const EvalDocuments& next, int64_t parallel, const Foreseen& done,
             const std::function<void(int64_t)>& progress) {
  Reading reading(scheduler, next, parallel);
  while (!reading.is_done()) {
    reading.begin();
    reading.step();
    reading.hand_over(done);
    progress(reading.tokens_read());
  }
}

void PerplexityReport::add(const EvalDocument& document, std::span<const float> log_probs) {
  const Perplexity sum{1, document.bytes, int64_t(log_probs.size()),
                       -std::accumulate(log_probs.begin(), log_probs.end(), 0.0)};
  for (Perplexity* total : {&all, &kinds[document.kind]})
    total->documents += 1, total->bytes += sum.bytes, total->tokens += sum.tokens, total->nats += sum.nats;
  constexpr int64_t kFirst = 1024, kTimes = 4;
  int64_t from = 1, to = kFirst;  // row i stands for the token that i + 1 tokens stand before
  for (size_t i = 0; from <= int64_t(log_probs.size()); ++i, from = to, to *= kTimes) {
    if (i == positions.size()) positions.push_back({from, to, {}});
    const auto rows = log_probs.subspan(size_t(from - 1), size_t(std::min(to - from, sum.tokens - (from - 1))));
    Perplexity& there = positions[i].sum;
    ++there.documents, there.tokens += int64_t(rows.size());
    there.nats -= std::accumulate(rows.begin(), rows.end(), 0.0);
  }
}

}  // namespace fulgur

#include "eval/perplexity.h"

#include <cmath>
#include <map>
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

DocumentNats document_nats(Scheduler& scheduler, const std::vector<EvalDocument>& documents, int64_t parallel,
                           const std::function<void(int64_t, int64_t)>& progress) {
  DocumentNats result{.nats = std::vector<double>(documents.size(), 0.0)};
  std::map<SessionId, size_t> reading;
  size_t next = 0;
  int64_t done = 0;
  while (next < documents.size() || !reading.empty()) {
    while (next < documents.size() && int64_t(reading.size()) < parallel) {
      const size_t number = next++;
      if (documents[number].tokens.size() < 2) continue;  // nothing to foresee
      const SessionId session = scheduler.open();
      scheduler.ask(session, {.tokens = documents[number].tokens, .next_log_probs = true});
      reading[session] = number;
    }
    for (const Event& event : scheduler.step()) {
      const std::vector<float>& log_probs = scheduler.next_log_probs(event.session);
      result.nats[reading.at(event.session)] = -std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
      result.tokens += int64_t(log_probs.size());
      reading.erase(event.session);
      scheduler.close(event.session);
      progress(++done, result.tokens);
    }
  }
  return result;
}

Perplexity perplexity(Scheduler& scheduler, const std::vector<EvalDocument>& documents, int64_t parallel,
                      const std::function<void(int64_t, int64_t)>& progress) {
  Perplexity result{.documents = int64_t(documents.size())};
  for (const EvalDocument& document : documents) result.bytes += document.bytes;
  const DocumentNats read = document_nats(scheduler, documents, parallel, progress);
  if (read.tokens == 0) fail(ErrorKind::invalid_input, "the documents hold no token to foresee");
  result.tokens = read.tokens;
  result.nats = std::accumulate(read.nats.begin(), read.nats.end(), 0.0);  // in the documents' order
  return result;
}

}  // namespace fulgur

// How well a model foresees texts it is given: bits per byte of text, and perplexity per token; by kind of text, and by
// how much of a document went before.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "generate/scheduler.h"
#include "text/tokenizer.h"

namespace fulgur {

struct Perplexity {
  int64_t documents = 0, bytes = 0, tokens = 0;  // tokens: those that were foreseen
  double nats = 0;                               // sum of -log p

  double bits_per_byte() const;  // of the documents' UTF-8 text
  double per_token() const;      // exp(nats / tokens)
};

struct EvalDocument {
  std::vector<int32_t> tokens;
  int64_t bytes;  // of its UTF-8 text
  std::string kind = {};
};
// Framed by the tokenizer's <beginning_of_sentence> and <end_of_document> (else <end_of_sentence>) where it has them.
EvalDocument framed(const Tokenizer& tokenizer, const std::string& document);

// The next document, none at the end.
using EvalDocuments = std::function<std::optional<EvalDocument>()>;

// Reads each document alone, from its first token to its last with all that went before in mind, however long it is:
// the state goes on from chunk to chunk. `parallel` documents at a time, as far as the engine's pages suffice; neither
// that nor the engine's chunks change a bit. done(document, log p of its tokens from the second on) comes in the
// documents' order; progress(tokens read) after each step. The engine behind the scheduler was made with `traces`.
// Throws as Scheduler::ask.
using Foreseen = std::function<void(const EvalDocument&, std::span<const float> log_probs)>;
void foresee(Scheduler& scheduler, const EvalDocuments& next, int64_t parallel, const Foreseen& done,
             const std::function<void(int64_t)>& progress);

// Tokens that at least `from` and less than `to` tokens of their document stand before.
struct AtPositions {
  int64_t from, to;
  Perplexity sum;  // documents: those that reach so far; its bytes are not counted
};

struct PerplexityReport {
  Perplexity all;
  std::map<std::string, Perplexity> kinds;
  std::vector<AtPositions> positions;  // 1 to 1,024, then four times as many each; none beyond the longest document

  void add(const EvalDocument& document, std::span<const float> log_probs);
};

}  // namespace fulgur

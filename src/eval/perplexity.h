// How well a model foresees texts it is given: bits per byte of text, and perplexity per token.
#pragma once
#include <functional>
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
};
// Framed by the tokenizer's <beginning_of_sentence> and <end_of_document> (else <end_of_sentence>) where it has them.
EvalDocument framed(const Tokenizer& tokenizer, const std::string& document);

// Of each document read by itself: the nats of its tokens after the first, summed; 0 where there is none. `parallel`
// documents at a time; neither that nor the engine's chunks change a sum. The engine behind the scheduler was made with
// `traces`.
struct DocumentNats {
  std::vector<double> nats;
  int64_t tokens = 0;  // that were foreseen, of all documents
};
DocumentNats document_nats(Scheduler& scheduler, const std::vector<EvalDocument>& documents, int64_t parallel,
                           const std::function<void(int64_t, int64_t)>& progress);

// Each document alone, from its first token to its last with all that went before in mind. `parallel` documents at a
// time; neither that nor the engine's chunks change the sums. progress(documents done, tokens done). The engine behind
// the scheduler was made with `traces`. Throws invalid_input where there is no token to foresee, and as
// Scheduler::ask.
Perplexity perplexity(Scheduler& scheduler, const std::vector<EvalDocument>& documents, int64_t parallel,
                      const std::function<void(int64_t, int64_t)>& progress);

}  // namespace fulgur

// Completions: prompts to texts, many at once. Drives a scheduler; the caller steps it and shows the pieces.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "generate/answer_text.h"
#include "generate/scheduler.h"

namespace fulgur {

struct CompletionRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 256;
  Sampling sampling = {};
  int64_t choices = 1;  // answers to this prompt, which is read once; choice i is what `choices = i + 1` would add
  std::vector<std::string> stop = {};
  std::vector<int32_t> stop_ids = {};
  int32_t log_probs = -1, guesses = 0;
  int priority = 0;
};

struct Completion {
  std::string text;                 // without the stop string
  std::vector<int32_t> ids;         // with the stop token, and those of the stop string
  std::vector<LogProbs> log_probs;  // of each id, where asked for
  Finish finish = Finish::none;
};

using CompletionId = uint64_t;
struct Piece {
  CompletionId completion;
  int64_t choice;
  std::string text;  // may be empty
  bool is_last;      // of its choice
};

class Completions {
 public:
  Completions(Scheduler& scheduler, const Tokenizer& tokenizer) : scheduler_(scheduler), tokenizer_(tokenizer) {}

  CompletionId start(CompletionRequest request);  // throws as Scheduler::ask
  void cancel(CompletionId id);                   // its choices end with what they have
  std::vector<Piece> step();  // one step of the scheduler; empty lists may come while prompts are read
  bool idle() const { return answers_.empty() && reading_.empty(); }

  bool is_done(CompletionId id) const { return open_choices_.at(id) == 0; }
  std::vector<Completion> take(CompletionId id);  // the choices of what is done, which is forgotten

 private:
  struct Answer {
    CompletionId id;
    int64_t choice;
    AnswerText text;
  };
  void ask(CompletionId id, SessionId session, int64_t choice, std::vector<int32_t> tokens);
  void answer_all(CompletionId id, SessionId read);
  Piece take_in(SessionId session, Event& event);
  void end(SessionId session, Finish how);

  Scheduler& scheduler_;
  const Tokenizer& tokenizer_;
  std::map<CompletionId, CompletionRequest> requests_;
  std::map<CompletionId, std::vector<Completion>> results_;
  std::map<CompletionId, int64_t> open_choices_;
  std::map<SessionId, CompletionId> reading_;  // prompts that several choices share
  std::map<SessionId, Answer> answers_;
  CompletionId next_id_ = 1;
};

}  // namespace fulgur

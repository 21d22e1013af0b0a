// Scheduler: conversations that come and go, one engine. It has no thread of its own: the caller steps it and is handed
// tokens. Whatever it decides - chunks, company, who is put aside and taken up again - changes no token, because a
// row's bits depend on its sequence alone (spec/serving.md 5, C1-C5).
#pragma once
#include <map>
#include <optional>
#include <string>

#include "generate/engine.h"
#include "generate/prefix_store.h"

namespace fulgur {

using SessionId = uint64_t;

// What a session is asked for: it reads `tokens` and then writes up to `max_tokens`, fewer where one of stop_ids comes.
struct Request {
  std::vector<int32_t> tokens;
  int64_t max_tokens = 0;  // 0: reads only
  Sampling sampling = {};
  uint64_t choice = 0;  // tells apart answers to the same prompt with the same seed
  std::vector<int32_t> stop_ids = {};
  int32_t guesses = 0;          // as Sequence::guesses, at most as many as the engine allows
  int32_t log_probs = -1;       // how many of the most likely tokens come with each new one; -1: no logarithms
  bool next_log_probs = false;  // of the tokens that are read; the engine's options need `traces`
  int priority = 0;             // higher ones go first and are put aside last
};

enum class Finish : uint8_t { none, length, stop, cancelled };

struct Event {
  SessionId session;
  std::optional<int32_t> token;  // a new one; none where the request only reads
  std::optional<LogProbs> log_probs = {};
  Finish finish = Finish::none;  // not none: the session is idle again
};

// What a request takes at most, before any work.
struct Need {
  int64_t tokens;  // of the session, with everything that is asked for
  int64_t pages, free_pages, all_pages;
};

class Scheduler {
 public:
  explicit Scheduler(Engine& engine);
  ~Scheduler();

  SessionId open();          // a session without tokens
  void close(SessionId id);  // frees its memory at once, whatever it is doing
  // A new idle session with the same past. Throws invalid_input while the session is busy.
  SessionId fork(SessionId id);

  Need need(SessionId id, const Request& request) const;
  // Throws invalid_input while the session is busy, where there is nothing to do, or for a token outside of the
  // vocabulary; out_of_memory, with the numbers, where the request could not be served even alone.
  void ask(SessionId id, Request request);
  void cancel(SessionId id);  // the session is idle with the tokens so far; its event comes with the next step
  // Forgets an idle session's last tokens. What the state cannot undo is read again from the last mark before it.
  void undo(SessionId id, int64_t tokens);
  // Remembers an idle session's place, so that undo reads nothing again down to here.
  void mark(SessionId id);

  // One forward over what fits the engine's limits: every session that writes, then pieces of prompts. Empty when
  // nothing is asked for.
  std::vector<Event> step();
  bool idle() const;

  const std::vector<int32_t>& tokens(SessionId id) const;
  int64_t position(SessionId id) const;  // tokens that the state covers
  bool busy(SessionId id) const;
  // As Sequence::next_log_probs, of the last request: from the session's position on when it was asked.
  const std::vector<float>& next_log_probs(SessionId id) const;

  // Where states of texts that were read before are kept; not owned, null: nowhere. A session of which nothing was read
  // begins with the longest beginning that is known.
  void use(PrefixStore* store) { store_ = store; }
  // Puts what an idle session has read into that store.
  void remember(SessionId id);

  // An idle session's state, which moves out of the pool until it is needed there; position 0 where nothing was read.
  const StateImage& image(SessionId id);
  SessionId open(std::vector<int32_t> tokens, StateImage image);  // throws invalid_input for a model of another shape

  // Moves a session's state out of the pool as if its room was needed; it comes back when its turn comes.
  void put_aside(SessionId id);
  int64_t times_put_aside() const { return times_put_aside_; }

 private:
  struct Session;

  Session& at(SessionId id);
  const Session& at(SessionId id) const;
  Session& idle_at(SessionId id);
  Session& add();
  std::vector<Session*> by_rank();
  bool take_up(Session& session, int64_t spare_pages);
  void put_aside(Session& session);
  bool free_idle_memory(const Session* but);
  std::vector<Session*> with_room();
  struct Chosen {
    std::vector<Session*> sessions;
    std::vector<const Sequence*> read;  // those that end with this step's rows and want no token
  };
  Chosen choose();
  static std::vector<Sequence*> sequences_of(const std::vector<Session*>& sessions);
  void finish(Session& session, Finish how, Event& event);

  Engine& engine_;
  PrefixStore* store_ = nullptr;
  std::map<SessionId, Session> sessions_;
  std::vector<Event> cancelled_;  // since the last step
  SessionId next_id_ = 1;
  uint64_t arrivals_ = 0;
  int64_t times_put_aside_ = 0;
};

}  // namespace fulgur

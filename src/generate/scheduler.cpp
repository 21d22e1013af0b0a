#include "generate/scheduler.h"

#include <algorithm>
#include <utility>

#include "generate/lay_out.h"

namespace fulgur {

// Where a session's state is: in the pool (`live`, which then has the tokens), put aside (`image`), or nowhere, when
// nothing was read yet.
struct Scheduler::Session {
  SessionId id;
  std::optional<Sequence> live = {};
  std::optional<StateImage> image = {};
  std::vector<int32_t> sleeping_tokens = {};
  std::vector<StateCheckpoint> marks = {};  // ascending
  Request request = {};                     // its tokens have moved on
  bool is_busy = false;
  int64_t answer_begin = 0;  // tokens
  std::vector<float> next_log_probs = {};
  uint64_t arrival = 0;  // of the request, or of whatever touched it last

  std::vector<int32_t>& tokens() { return live ? live->tokens : sleeping_tokens; }
  int64_t position() const { return live ? live->state.position() : image ? image->position() : 0; }
  // What the request says to the sequence in the pool.
  void hand_over() {
    live->id = request.choice, live->new_tokens = request.max_tokens, live->sampling = request.sampling;
    live->stop_ids = request.stop_ids, live->guesses = request.guesses;
    live->answer_begin = answer_begin, live->log_probs = request.log_probs;
    live->next_log_probs = request.next_log_probs ? &next_log_probs : nullptr;
  }
  bool writes() const { return is_busy && live && live->new_tokens > 0 && live->pending() == 1; }
};

std::vector<Sequence*> Scheduler::sequences_of(const std::vector<Session*>& sessions) {
  std::vector<Sequence*> sequences;
  sequences.reserve(sessions.size());
  for (Session* s : sessions) sequences.push_back(&*s->live);
  return sequences;
}

Scheduler::Scheduler(Engine& engine) : engine_(engine) {}
Scheduler::~Scheduler() = default;

Scheduler::Session& Scheduler::at(SessionId id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) fail(ErrorKind::invalid_input, "there is no session " + std::to_string(id));
  return found->second;
}
const Scheduler::Session& Scheduler::at(SessionId id) const { return const_cast<Scheduler&>(*this).at(id); }

Scheduler::Session& Scheduler::idle_at(SessionId id) {
  Session& s = at(id);
  if (s.is_busy) fail(ErrorKind::invalid_input, "session " + std::to_string(id) + " is busy: cancel it first");
  return s;
}

Scheduler::Session& Scheduler::add() {
  const SessionId id = next_id_++;
  return sessions_.emplace(id, Session{.id = id, .arrival = ++arrivals_}).first->second;
}

SessionId Scheduler::open() { return add().id; }

SessionId Scheduler::open(std::vector<int32_t> tokens, StateImage image) {
  if (image.shape() != engine_.pool().shape())
    fail(ErrorKind::invalid_input, "the state is of a model of another shape or element type");
  if (image.position() > int64_t(tokens.size()))
    fail(ErrorKind::invalid_input,
         "the state covers " + std::to_string(image.position()) + " tokens of " + std::to_string(tokens.size()));
  Session& s = add();
  s.sleeping_tokens = std::move(tokens);
  if (image.position() > 0) s.image = std::move(image);
  return s.id;
}

void Scheduler::close(SessionId id) {
  at(id);
  sessions_.erase(id);
}

SessionId Scheduler::fork(SessionId id) {
  Session& s = idle_at(id);
  while (s.live && engine_.pool().free_slots() == 0)
    if (!free_idle_memory(&s)) put_aside(s);
  Session& twin = add();
  if (s.live) {
    twin.live.emplace(Sequence{.tokens = s.live->tokens, .state = s.live->state.fork(engine_.stream())});
  } else {
    twin.sleeping_tokens = s.sleeping_tokens;
    if (s.image) twin.image = s.image->twin();
  }
  return twin.id;
}

Need Scheduler::need(SessionId id, const Request& request) const {
  Session& s = const_cast<Scheduler&>(*this).at(id);
  const int64_t tokens = int64_t(s.tokens().size() + request.tokens.size()) + request.max_tokens;
  const StatePool& pool = std::as_const(engine_).pool();
  return {tokens, pages_for(tokens), pool.free_pages(), pool.all_pages()};
}

void Scheduler::ask(SessionId id, Request request) {
  Session& s = idle_at(id);
  for (const int32_t token : request.tokens)
    if (token < 0 || token >= engine_.vocab_size())
      fail(ErrorKind::invalid_input,
           "token " + std::to_string(token) + ": expected ids from 0 to " + std::to_string(engine_.vocab_size() - 1));
  require_valid(request.sampling, engine_.vocab_size());
  if (request.guesses < 0 || request.guesses > engine_.guesses())
    fail(ErrorKind::invalid_input, "guesses " + std::to_string(request.guesses) + ": expected at most the engine's " +
                                       std::to_string(engine_.guesses()));
  const int64_t pending = int64_t(s.tokens().size() + request.tokens.size()) - s.position();
  if (request.max_tokens < 0 || pending == 0)
    fail(ErrorKind::invalid_input, "a request brings a token to read and asks for none or more to be written");
  const Need n = need(id, request);
  if (n.pages > n.all_pages)
    fail(ErrorKind::out_of_memory, "out of memory: " + std::to_string(n.tokens) + " tokens take " +
                                       std::to_string(n.pages) + " KV pages of 64, there are " +
                                       std::to_string(n.all_pages) + " (" + std::to_string(n.free_pages) + " free)");
  s.tokens().insert(s.tokens().end(), request.tokens.begin(), request.tokens.end());
  if (store_ && s.position() == 0 && !request.next_log_probs)
    if (std::optional<StateImage> known = store_->find(std::span(s.tokens()).first(s.tokens().size() - 1))) {
      put_aside(s);
      s.image = std::move(known);
    }
  s.request = std::move(request);
  s.is_busy = true, s.arrival = ++arrivals_;
  s.answer_begin = int64_t(s.tokens().size());
  s.next_log_probs.clear();
  if (s.live) s.hand_over();
}

void Scheduler::finish(Session& s, Finish how, Event& event) {
  s.is_busy = false, s.arrival = ++arrivals_;
  if (s.live) s.live->new_tokens = 0;
  event.session = s.id, event.finish = how;
}

void Scheduler::cancel(SessionId id) {
  Session& s = at(id);
  if (s.is_busy) finish(s, Finish::cancelled, cancelled_.emplace_back());
}

void Scheduler::mark(SessionId id) {
  Session& s = idle_at(id);
  if (s.live && (s.marks.empty() || s.marks.back().position < s.position()))
    s.marks.push_back(s.live->state.checkpoint(engine_.stream()));
}

void Scheduler::remember(SessionId id) {
  Session& s = idle_at(id);
  if (!store_ || s.position() == 0) return;
  StateImage image = s.live ? StateImage(engine_.stream(), s.live->state) : s.image->twin();
  store_->put(std::span(s.tokens()).first(size_t(image.position())), std::move(image));
}

void Scheduler::undo(SessionId id, int64_t tokens) {
  Session& s = idle_at(id);
  const int64_t left = int64_t(s.tokens().size()) - tokens;
  if (tokens < 0 || left < 0)
    fail(ErrorKind::invalid_input,
         "cannot undo " + std::to_string(tokens) + " tokens of " + std::to_string(s.tokens().size()));
  s.tokens().resize(size_t(left));
  while (!s.marks.empty() && s.marks.back().position > left) s.marks.pop_back();
  if (s.position() <= left) return;
  if (s.live && s.position() - left <= s.live->state.undoable()) return s.live->state.undo(s.position() - left);
  if (s.live && !s.marks.empty()) return s.live->state.restore(engine_.stream(), s.marks.back());
  if (s.live) s.sleeping_tokens = std::move(s.live->tokens);
  s.live.reset(), s.image.reset();
}

void Scheduler::put_aside(Session& s) {
  if (!s.live) return;
  if (s.position() > 0) s.image.emplace(engine_.stream(), s.live->state);
  s.sleeping_tokens = std::move(s.live->tokens);
  s.request.max_tokens = s.live->new_tokens;
  s.live.reset(), s.marks.clear();
  ++times_put_aside_;
}
void Scheduler::put_aside(SessionId id) { put_aside(at(id)); }

const StateImage& Scheduler::image(SessionId id) {
  Session& s = idle_at(id);
  put_aside(s);
  if (!s.image) s.image.emplace(engine_.pool().shape(), 0);
  return *s.image;
}

// Into the pool, if a slot is free and pages for what it remembers and for `spare_pages` of what it still asks for.
bool Scheduler::take_up(Session& s, int64_t spare_pages) {
  StatePool& pool = engine_.pool();
  const int64_t held = pages_for(s.position());
  const int64_t all = pages_for(int64_t(s.sleeping_tokens.size()) + s.request.max_tokens);
  while (pool.free_slots() == 0 || pool.free_pages() < held + std::min(spare_pages, all - held))
    if (!free_idle_memory(&s)) return false;
  SequenceState state = s.image ? s.image->place(engine_.stream(), pool) : SequenceState(pool, engine_.stream());
  s.live.emplace(Sequence{.tokens = std::move(s.sleeping_tokens), .state = std::move(state)});
  s.hand_over();
  s.image.reset();
  return true;
}

// Gives up what nobody is waiting for: first the marks, then the idle session that was touched longest ago. False when
// there is nothing more.
bool Scheduler::free_idle_memory(const Session* but) {
  Session* oldest = nullptr;
  for (auto& [id, s] : sessions_) {
    if (!s.marks.empty()) return s.marks.erase(s.marks.begin()), true;
    if (&s != but && s.live && !s.is_busy && (!oldest || s.arrival < oldest->arrival)) oldest = &s;
  }
  if (oldest) put_aside(*oldest);
  return oldest != nullptr;
}

std::vector<Scheduler::Session*> Scheduler::by_rank() {
  std::vector<Session*> busy;
  for (auto& [id, s] : sessions_)
    if (s.is_busy) busy.push_back(&s);
  std::sort(busy.begin(), busy.end(), [](const Session* a, const Session* b) {
    return std::pair(-a->request.priority, a->arrival) < std::pair(-b->request.priority, b->arrival);
  });
  return busy;
}

// Busy sessions by rank that are in the pool, together with the pages that their next rows need.
std::vector<Scheduler::Session*> Scheduler::with_room() {
  std::vector<Session*> ranked = by_rank(), running;
  size_t lowest = ranked.size();  // those from here on have been put aside for higher ones
  for (size_t i = 0; i < lowest; ++i) {
    while (!ranked[i]->live && !take_up(*ranked[i], int64_t(i) + 1) && --lowest > i) put_aside(*ranked[lowest]);
    if (ranked[i]->live) running.push_back(ranked[i]);
  }
  return running;
}

// Those that write first, so that a long prompt holds nobody up; fewer and fewer until the pool has the pages that
// their next rows need.
Scheduler::Chosen Scheduler::choose() {
  std::vector<Session*> chosen = with_room();
  for (;;) {
    std::vector<Session*> order = chosen;
    std::stable_partition(order.begin(), order.end(), [](const Session* s) { return s->writes(); });
    int64_t pages = 0;
    Chosen result{order, {}};
    for (const Share& share : choose_rows(sequences_of(order), engine_.limits())) {
      pages += share.sequence->state.pages_to_reserve(share.rows);
      if (share.reaches_end() && !share.wants_token()) result.read.push_back(share.sequence);
    }
    if (pages <= engine_.pool().free_pages()) return result;
    if (free_idle_memory(nullptr)) continue;
    expect(chosen.size() > 1, "a request that was accepted fits the pool alone");
    put_aside(*chosen.back());
    chosen.pop_back();
  }
}

namespace {

bool ends(const Request& request, int32_t token) {
  return std::find(request.stop_ids.begin(), request.stop_ids.end(), token) != request.stop_ids.end();
}

}  // namespace

std::vector<Event> Scheduler::step() {
  std::vector<Event> events = std::exchange(cancelled_, {});
  const auto [chosen, read] = choose();
  if (chosen.empty()) return events;
  const std::vector<Sequence*> running = sequences_of(chosen);
  // Of one of the running sequences, asked for in their order.
  const auto owner = [&, &chosen = chosen](const Sequence* sequence, size_t& at) -> Session& {
    while (running[at] != sequence) ++at;
    return *chosen[at];
  };
  std::vector<Sampled> fresh = engine_.step(running);
  events.reserve(events.size() + fresh.size() + read.size());
  for (size_t i = 0, at = 0; i < fresh.size(); ++i) {
    Session& s = owner(fresh[i].sequence, at);
    events.push_back({s.id, fresh[i].token, std::move(fresh[i].log_probs)});
    Event& event = events.back();
    const bool is_last =
        s.live->new_tokens == 0 && (i + 1 == fresh.size() || fresh[i + 1].sequence != fresh[i].sequence);
    if (is_last) finish(s, ends(s.request, fresh[i].token) ? Finish::stop : Finish::length, event);
  }
  size_t at = 0;
  for (const Sequence* sequence : read) finish(owner(sequence, at), Finish::length, events.emplace_back());
  return events;
}

bool Scheduler::idle() const {
  return cancelled_.empty() &&
         std::none_of(sessions_.begin(), sessions_.end(), [](const auto& entry) { return entry.second.is_busy; });
}

const std::vector<int32_t>& Scheduler::tokens(SessionId id) const {
  return const_cast<Scheduler&>(*this).at(id).tokens();
}
int64_t Scheduler::position(SessionId id) const { return at(id).position(); }
bool Scheduler::busy(SessionId id) const { return at(id).is_busy; }
const std::vector<float>& Scheduler::next_log_probs(SessionId id) const { return at(id).next_log_probs; }

}  // namespace fulgur

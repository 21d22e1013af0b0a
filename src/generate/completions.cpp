#include "generate/completions.h"

#include <utility>

namespace fulgur {

CompletionId Completions::start(CompletionRequest request) {
  if (request.choices < 1 || request.prompt.empty())
    fail(ErrorKind::invalid_input, "a completion needs a prompt of at least one token and at least one choice");
  const CompletionId id = next_id_++;
  const SessionId session = scheduler_.open();
  std::vector<int32_t> prompt = request.prompt;
  results_[id].resize(size_t(request.choices));
  open_choices_[id] = request.choices;
  requests_[id] = std::move(request);
  try {
    if (requests_[id].choices == 1 || prompt.size() == 1) {
      answer_all(id, session);
    } else {  // all but the last token is read once; then the choices part
      prompt.pop_back();
      scheduler_.ask(session, {.tokens = std::move(prompt), .priority = requests_[id].priority});
      reading_[session] = id;
    }
  } catch (...) {
    scheduler_.close(session);
    requests_.erase(id), results_.erase(id), open_choices_.erase(id);
    throw;
  }
  return id;
}

// The choices of a prompt of which `read` has read all tokens or all but the last one.
void Completions::answer_all(CompletionId id, SessionId read) {
  const CompletionRequest& request = requests_.at(id);
  const size_t known = scheduler_.tokens(read).size();
  const std::vector<int32_t> rest(request.prompt.begin() + int64_t(known), request.prompt.end());
  std::vector<SessionId> sessions{read};
  try {
    while (int64_t(sessions.size()) < request.choices) sessions.push_back(scheduler_.fork(read));
    for (size_t i = 0; i < sessions.size(); ++i) ask(id, sessions[i], int64_t(i), rest);
  } catch (...) {
    for (const SessionId session : sessions) {
      answers_.erase(session);
      if (session != read) scheduler_.close(session);
    }
    throw;
  }
}

void Completions::ask(CompletionId id, SessionId session, int64_t choice, std::vector<int32_t> tokens) {
  const CompletionRequest& request = requests_.at(id);
  scheduler_.ask(session, {.tokens = std::move(tokens),
                           .max_tokens = request.max_tokens,
                           .sampling = request.sampling,
                           .choice = uint64_t(choice),
                           .stop_ids = request.stop_ids,
                           .guesses = request.guesses,
                           .log_probs = request.log_probs,
                           .priority = request.priority});
  answers_.try_emplace(session, Answer{id, choice, AnswerText(tokenizer_, request.stop)});
}

void Completions::cancel(CompletionId id) {
  for (const auto& [session, reading] : std::map(reading_))
    if (reading == id) {
      scheduler_.close(session), reading_.erase(session), open_choices_[id] = 0;
      for (Completion& choice : results_.at(id)) choice.finish = Finish::cancelled;
    }
  std::vector<SessionId> ending;
  for (const auto& [session, answer] : answers_)
    if (answer.id == id) ending.push_back(session);
  for (const SessionId session : ending) end(session, Finish::cancelled);
}

void Completions::end(SessionId session, Finish how) {
  const auto answer = answers_.find(session);
  results_.at(answer->second.id)[size_t(answer->second.choice)].finish = how;
  --open_choices_.at(answer->second.id);
  answers_.erase(answer);
  scheduler_.close(session);
}

Piece Completions::take_in(SessionId session, Event& event) {
  Answer& answer = answers_.at(session);
  Completion& result = results_.at(answer.id)[size_t(answer.choice)];
  Piece piece{answer.id, answer.choice, {}, false};
  result.ids.push_back(*event.token);
  if (event.log_probs) result.log_probs.push_back(std::move(*event.log_probs));
  if (event.finish != Finish::stop) piece.text = answer.text.feed(*event.token);
  const Finish how = answer.text.stopped() ? Finish::stop : event.finish;
  if (how != Finish::none) piece.text += answer.text.flush(), piece.is_last = true;
  result.text += piece.text;
  if (piece.is_last) end(session, how);
  return piece;
}

std::vector<Piece> Completions::step() {
  std::vector<Piece> pieces;
  for (Event& event : scheduler_.step()) {
    if (const auto reading = reading_.find(event.session); reading != reading_.end()) {
      const CompletionId id = reading->second;
      reading_.erase(reading);
      answer_all(id, event.session);
    } else if (answers_.contains(event.session) && event.token) {
      pieces.push_back(take_in(event.session, event));
    }
  }
  return pieces;
}

std::vector<Completion> Completions::take(CompletionId id) {
  std::vector<Completion> result = std::move(results_.at(id));
  requests_.erase(id), results_.erase(id), open_choices_.erase(id);
  return result;
}

}  // namespace fulgur

#include "apps/conversation.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace fulgur {
namespace {

constexpr SessionId kNone = 0;

Conversation::Messages message(const char* role, const std::string& text) {
  return {{"role", role}, {"content", text}};
}

bool is_from(const Conversation::Messages& message, const char* role) { return message.value("role", "") == role; }

}  // namespace

Conversation::Conversation(const ChatModel& model) : model_(&model), session_(model.scheduler.open()) {}

Conversation::Conversation(const ChatModel& model, Messages messages, std::vector<int32_t> tokens, StateImage image)
    : model_(&model),
      messages_(std::move(messages)),
      session_(model.scheduler.open(std::move(tokens), std::move(image))) {}

Conversation::Conversation(Conversation&& other) noexcept
    : model_(other.model_),
      messages_(std::move(other.messages_)),
      session_(std::exchange(other.session_, kNone)),
      answer_(std::move(other.answer_)),
      answer_so_far_(std::move(other.answer_so_far_)),
      answer_tokens_(other.answer_tokens_),
      was_cut_(other.was_cut_) {}

Conversation::~Conversation() {
  if (session_ != kNone) model_->scheduler.close(session_);
}

Conversation Conversation::fork() {
  Conversation twin(*model_);
  model_->scheduler.close(twin.session_);
  twin.session_ = kNone;
  twin.session_ = model_->scheduler.fork(session_);
  twin.messages_ = messages_;
  return twin;
}

void Conversation::set_system(const std::string& text) {
  if (!messages_.empty() && is_from(messages_[0], "system")) messages_.erase(0);
  if (!text.empty()) messages_.insert(messages_.begin(), message("system", text));
}

std::vector<int32_t> Conversation::wanted_tokens() const {
  if (model_->chat_template) {
    const std::string text = model_->chat_template->render(
        {.messages = messages_, .tools = nullptr, .variables = nullptr, .now = std::time(nullptr)});
    return model_->tokenizer.encode(text, SpecialTokens::as_ids);
  }
  std::string text;
  for (const Messages& m : messages_) text += m.value("content", "");
  std::vector<int32_t> tokens = model_->tokenizer.encode(text, SpecialTokens::as_text);
  if (model_->begin_id) tokens.insert(tokens.begin(), *model_->begin_id);
  return tokens;
}

void Conversation::begin_answer(const AnswerOptions& options) {
  const std::vector<int32_t> wanted = wanted_tokens();
  if (wanted.empty()) fail(ErrorKind::invalid_input, "there is no text yet to go on from");
  const std::vector<int32_t>& known = model_->scheduler.tokens(session_);
  size_t same = size_t(std::mismatch(known.begin(), known.end(), wanted.begin(), wanted.end()).first - known.begin());
  same = std::min(same, wanted.size() - 1);  // something has to be read for an answer to follow
  model_->scheduler.undo(session_, int64_t(known.size() - same));
  model_->scheduler.mark(session_);
  model_->scheduler.ask(session_, {.tokens = {wanted.begin() + int64_t(same), wanted.end()},
                                   .max_tokens = options.max_tokens,
                                   .sampling = options.sampling,
                                   .stop_ids = model_->stop_ids,
                                   .guesses = options.guesses});
  answer_.emplace(model_->tokenizer, options.stop);
  answer_so_far_.clear(), answer_tokens_ = 0, was_cut_ = false;
}

void Conversation::ask(const std::string& text, const AnswerOptions& options) {
  messages_.push_back(message("user", text));
  try {
    begin_answer(options);
  } catch (...) {
    messages_.erase(messages_.size() - 1);
    throw;
  }
}

void Conversation::answer_again(const AnswerOptions& options) {
  Messages before = messages_;
  if (!messages_.empty() && is_from(messages_.back(), "assistant")) messages_.erase(messages_.size() - 1);
  try {
    begin_answer(options);
  } catch (...) {
    messages_ = std::move(before);
    throw;
  }
}

std::string Conversation::step() {
  std::string shown;
  for (const Event& event : model_->scheduler.step()) {
    if (event.session != session_ || !answer_ || !event.token) continue;
    ++answer_tokens_;
    if (event.finish != Finish::stop) shown += answer_->feed(*event.token);
    was_cut_ = event.finish == Finish::length;
    if (answer_->stopped()) model_->scheduler.cancel(session_);
    if (answer_->stopped() || event.finish != Finish::none) {
      shown += answer_->flush();
      answer_so_far_ += shown;
      end_answer();
      return shown;
    }
  }
  answer_so_far_ += shown;
  return shown;
}

void Conversation::stop() {
  if (!answer_) return;
  model_->scheduler.cancel(session_);
  end_answer();
}

void Conversation::end_answer() {
  answer_.reset();
  messages_.push_back(message("assistant", answer_so_far_));
}

std::optional<std::string> Conversation::undo() {
  while (!messages_.empty() && is_from(messages_.back(), "assistant")) messages_.erase(messages_.size() - 1);
  if (messages_.empty() || !is_from(messages_.back(), "user")) return {};
  const std::string question = messages_.back().value("content", "");
  messages_.erase(messages_.size() - 1);
  return question;
}

void Conversation::reset() {
  const bool has_system = !messages_.empty() && is_from(messages_[0], "system");
  messages_ = has_system ? Messages::array({messages_[0]}) : Messages::array();
}

}  // namespace fulgur

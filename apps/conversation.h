// A conversation: messages, and the session whose tokens are always those that the chat template makes of them. What
// changes in the messages is undone and read again from there on. Without a template the messages' texts are put end to
// end: the model goes on with what was written.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "generate/answer_text.h"
#include "generate/scheduler.h"
#include "text/chat_template.h"

namespace fulgur {

// What all conversations of a program share.
struct ChatModel {
  Scheduler& scheduler;
  const Tokenizer& tokenizer;
  const std::optional<ChatTemplate>& chat_template;
  std::vector<int32_t> stop_ids;
  std::optional<int32_t> begin_id;  // of texts without a template
};

struct AnswerOptions {
  int64_t max_tokens;
  Sampling sampling;
  std::vector<std::string> stop;
  int32_t guesses = 0;
};

class Conversation {
 public:
  using Messages = nlohmann::ordered_json;  // a list of {"role", "content"}

  explicit Conversation(const ChatModel& model);
  Conversation(const ChatModel& model, Messages messages, std::vector<int32_t> tokens, StateImage image);
  Conversation(Conversation&& other) noexcept;
  Conversation& operator=(Conversation&&) = delete;
  ~Conversation();
  Conversation fork();

  const Messages& messages() const { return messages_; }
  SessionId session() const { return session_; }
  void set_system(const std::string& text);  // the first message; an empty text takes it away

  // Adds the user's message and begins the answer. Where that fails the messages are as before.
  void ask(const std::string& text, const AnswerOptions& options);
  // The last answer once more, with other options.
  void answer_again(const AnswerOptions& options);
  // A step of the scheduler: what can be shown of the answer now.
  std::string step();
  bool is_answering() const { return answer_.has_value(); }
  void stop();  // the answer ends with what it has
  int64_t answer_tokens() const { return answer_tokens_; }
  bool was_cut() const { return was_cut_; }  // the last answer ended at its greatest length

  // Forgets the last question and what was said to it; the question, or none where there is none.
  std::optional<std::string> undo();
  void reset();  // all but the system's message

 private:
  std::vector<int32_t> wanted_tokens() const;
  void begin_answer(const AnswerOptions& options);
  void end_answer();

  const ChatModel* model_;
  Messages messages_ = Messages::array();
  SessionId session_;
  std::optional<AnswerText> answer_;
  std::string answer_so_far_;
  int64_t answer_tokens_ = 0;
  bool was_cut_ = false;
};

}  // namespace fulgur

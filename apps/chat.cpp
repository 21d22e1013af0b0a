// fulgur chat: a conversation in a terminal.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <list>

#include "apps/begin_token.h"
#include "apps/commands.h"
#include "apps/conversation.h"
#include "apps/line_editor.h"
#include "apps/run_options.h"
#include "apps/sampling_options.h"
#include "base/progress.h"
#include "device/transfer.h"
#include "files/digest.h"
#include "files/json_file.h"
#include "generate/session_file.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

struct ChatOptions {
  RunOptions run;
  SamplingOptions sampling;
  std::string system, load, chat_template;
  int64_t context = 16384;
};

std::optional<ChatTemplate> template_of(const ChatOptions& o) {
  if (!o.chat_template.empty()) return ChatTemplate::load(o.chat_template);
  try {
    return ChatTemplate::load(o.run.model);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::not_found) throw;
    return {};
  }
}

class Chat {
 public:
  Chat(const ChatOptions& options, LoadedModel model);
  void run();

 private:
  struct Command {
    const char *name, *argument, *help;
    void (Chat::*run)(const std::string& argument);
  };
  static const Command kCommands[];

  Conversation& current() { return *current_; }
  int64_t number_of(const Conversation& c) const;
  void greet();
  bool obey(const std::string& line);  // false: the program ends
  void say(const std::string& text);
  void show_answer();
  AnswerOptions answer_options() const;
  const SessionBinding& binding();

  void help(const std::string&);
  void system(const std::string& text);
  void undo(const std::string&);
  void edit(const std::string&);
  void retry(const std::string&);
  void reset(const std::string&);
  void fork(const std::string&);
  void go_to(const std::string& number);
  void save(const std::string& file);
  void load(const std::string& file);
  void set(const std::string& field);
  void history(const std::string&);

  const ChatOptions options_;
  SamplingOptions sampling_;
  LoadedModel model_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_;
  Engine engine_;
  Scheduler scheduler_{engine_};
  ChatModel chat_;
  std::optional<SessionBinding> binding_;
  std::list<Conversation> conversations_;
  std::list<Conversation>::iterator current_;
  LineEditor editor_;
};

const Chat::Command Chat::kCommands[] = {
    {"help", "", "this list", &Chat::help},
    {"system", "TEXT", "what the model is told before everything else; without TEXT: nothing", &Chat::system},
    {"undo", "", "forgets your last message and the answer to it", &Chat::undo},
    {"edit", "", "the same, and your message stands in the line again", &Chat::edit},
    {"retry", "", "another answer to your last message, with the next seed", &Chat::retry},
    {"reset", "", "forgets the conversation", &Chat::reset},
    {"fork", "", "goes on in a copy of the conversation", &Chat::fork},
    {"go", "N", "to conversation N; without N: which there are", &Chat::go_to},
    {"save", "FILE", "the conversation with the model's state", &Chat::save},
    {"load", "FILE", "such a conversation, to the same bits", &Chat::load},
    {"set", "FIELD VALUE", "temperature, top_k, top_p, min_p, seed, max_tokens ...; without: shows them", &Chat::set},
    {"history", "", "what was said", &Chat::history},
};

Chat::Chat(const ChatOptions& options, LoadedModel model)
    : options_(options),
      sampling_(options.sampling),
      model_(std::move(model)),
      tokenizer_(Tokenizer::load(options.run.model)),
      template_(template_of(options)),
      engine_(model_.config, model_.weights(),
              {.sequences = 4,
               .tokens = options.context,
               .guesses = options.sampling.guesses,
               .threads = options.run.thread_count(),
               .in_order = options.run.in_order()}),
      chat_{scheduler_, tokenizer_, template_, stop_ids_of(model_.config.eos_token_ids),
            begin_token(tokenizer_, options.run.model)} {
  sampling_.resolved(model_.config.vocab_size);
  current_ = conversations_.emplace(conversations_.end(), chat_);
  if (!options.system.empty()) current().set_system(options.system);
  if (!options.load.empty()) load(options.load);
}

int64_t Chat::number_of(const Conversation& c) const {
  int64_t number = 1;
  for (auto at = conversations_.begin(); &*at != &c; ++at) ++number;
  return number;
}

AnswerOptions Chat::answer_options() const {
  return {sampling_.max_tokens, sampling_.resolved(model_.config.vocab_size), sampling_.stop, sampling_.guesses};
}

void Chat::greet() {
  if (!editor_.is_terminal()) return;
  if (template_) std::printf("Ctrl-C stops an answer, Ctrl-D ends the program, /help lists what else there is.\n");
  else std::printf("This model has no chat template: it goes on with what you write. /help lists what there is.\n");
}

void Chat::say(const std::string& text) {
  current().ask(text, answer_options());
  show_answer();
}

void Chat::show_answer() {
  const double begin = monotonic_seconds();
  while (current().is_answering()) {
    if (Interrupts::take()) current().stop();
    else std::fputs(current().step().c_str(), stdout), std::fflush(stdout);
  }
  std::fputc('\n', stdout);
  const double seconds = monotonic_seconds() - begin;
  const int64_t tokens = current().answer_tokens();
  if (isatty(STDERR_FILENO))
    std::fprintf(stderr, "\033[2m[%lld tokens, %.1f tokens/s%s]\033[0m\n", static_cast<long long>(tokens),
                 double(tokens) / seconds, current().was_cut() ? ", cut at max_tokens" : "");
  std::fflush(stdout);
}

bool Chat::obey(const std::string& line) {
  const size_t end = std::min(line.find(' '), line.size());
  const std::string name = line.substr(1, end - 1);
  const std::string argument = line.substr(std::min(line.find_first_not_of(' ', end), line.size()));
  if (name == "quit" || name == "exit") return false;
  for (const Command& command : kCommands)
    if (name == command.name) return (this->*command.run)(argument), true;
  fail(ErrorKind::invalid_input, "there is no /" + name + "; /help lists what there is");
}

void Chat::run() {
  const Interrupts interrupts;
  greet();
  for (;;) {
    const std::string number = conversations_.size() > 1 ? std::to_string(number_of(current())) : "";
    const std::optional<std::string> line = editor_.read(number + "> ");
    if (!line) break;
    if (line->find_first_not_of(" \t") == line->npos) continue;
    try {
      if (line->front() != '/') say(*line);
      else if (!obey(*line)) return;
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::device) throw;
      std::fprintf(stderr, "%s\n", error.what());
    }
  }
  if (editor_.is_terminal()) std::fputc('\n', stdout);
}

void Chat::help(const std::string&) {
  for (const Command& c : kCommands)
    std::printf("/%-22s %s\n", (std::string(c.name) + " " + c.argument).c_str(), c.help);
  std::printf("/%-22s or Ctrl-D: the end\n", "quit");
}

void Chat::system(const std::string& text) { current().set_system(text); }

void Chat::undo(const std::string&) {
  if (!current().undo()) fail(ErrorKind::invalid_input, "there is nothing to undo");
}

void Chat::edit(const std::string&) {
  const std::optional<std::string> question = current().undo();
  if (!question) fail(ErrorKind::invalid_input, "there is nothing to edit");
  editor_.begin_with(*question);
}

void Chat::retry(const std::string&) {
  if (current().messages().empty()) fail(ErrorKind::invalid_input, "there is no message to answer");
  ++sampling_.sampling.seed;
  current().answer_again(answer_options());
  show_answer();
}

void Chat::reset(const std::string&) { current().reset(); }

void Chat::fork(const std::string&) {
  current_ = conversations_.insert(conversations_.end(), current().fork());
  std::printf("conversation %lld of %zu; /go N leads to another\n", static_cast<long long>(number_of(current())),
              conversations_.size());
}

void Chat::go_to(const std::string& number) {
  int64_t wanted = 0;
  if (number.empty()) {
    for (const Conversation& c : conversations_)
      std::printf("%s%lld: %zu messages\n", &c == &current() ? "* " : "  ", static_cast<long long>(number_of(c)),
                  c.messages().size());
    return;
  }
  if (!CLI::detail::lexical_cast(number, wanted) || wanted < 1 || wanted > int64_t(conversations_.size()))
    fail(ErrorKind::invalid_input,
         "/go " + in_quotes(number) + ": expected a number from 1 to " + std::to_string(conversations_.size()));
  current_ = std::next(conversations_.begin(), wanted - 1);
}

const SessionBinding& Chat::binding() {
  if (binding_) return *binding_;
  const Tensor flat = model_.weights().flat;
  Digest digest;
  const std::string config = read_text(std::filesystem::path(options_.run.model) / "config.json");
  digest.add(std::as_bytes(std::span(config)));
  for (const Tensor& part : {flat, model_.weights().quantised.values, model_.weights().quantised.scales})
    if (part) for_bytes(engine_.stream(), part, [&](std::span<const std::byte> bytes) { digest.add(bytes); });
  binding_ = {
      .model = digest.text(), .chat_template = template_ ? template_->digest() : "", .dtype = name_of(flat.dtype)};
  return *binding_;
}

void Chat::save(const std::string& file) {
  if (file.empty()) fail(ErrorKind::invalid_input, "/save FILE: expected a name");
  const SavedSession session{.tokens = scheduler_.tokens(current().session()),
                             .sampling = answer_options().sampling,
                             .notes = current().messages().dump(-1, ' ', false, Json::error_handler_t::replace)};
  save_session(file, binding(), session, scheduler_.image(current().session()));
  std::printf("saved %s\n", file.c_str());
}

void Chat::load(const std::string& file) {
  if (file.empty()) fail(ErrorKind::invalid_input, "/load FILE: expected a name");
  LoadedSession loaded = load_session(file, binding(), engine_.pool().shape());
  Json messages = parse_json(loaded.session.notes, file);
  if (!messages.is_array()) fail(ErrorKind::corrupt_file, file + ": it holds no messages");
  const size_t count = messages.size();
  Conversation conversation(chat_, std::move(messages), std::move(loaded.session.tokens), std::move(loaded.image));
  const auto old = current_;
  current_ = conversations_.insert(std::next(old), std::move(conversation));
  conversations_.erase(old);
  sampling_.biases.clear();
  sampling_.sampling = loaded.session.sampling;
  std::printf("loaded %s: %zu messages\n", file.c_str(), count);
}

void Chat::set(const std::string& field) {
  const size_t space = field.find(' ');
  if (field.empty()) {
    const Sampling& s = sampling_.sampling;
    std::printf(
        "temperature %g, top_k %d, typical_p %g, top_p %g, min_p %g, repetition_penalty %g, presence_penalty %g, "
        "frequency_penalty %g, seed %llu, max_tokens %lld\n",
        s.temperature, s.top_k, s.typical_p, s.top_p, s.min_p, s.repetition_penalty, s.presence_penalty,
        s.frequency_penalty, static_cast<unsigned long long>(s.seed), static_cast<long long>(sampling_.max_tokens));
    return;
  }
  const std::string name = field.substr(0, space), value = space == field.npos ? "" : field.substr(space + 1);
  const Json number = Json::parse(value, nullptr, false);
  if (!number.is_number()) fail(ErrorKind::invalid_input, "/set " + name + ": expected a number behind it");
  SamplingOptions changed = sampling_;
  read_fields({{name, number}}, changed);
  changed.resolved(model_.config.vocab_size);
  if (!is_field(name)) fail(ErrorKind::invalid_input, "/set: there is no " + in_quotes(name) + "; /set shows all");
  sampling_ = changed;
}

void Chat::history(const std::string&) {
  for (const Json& m : current().messages())
    std::printf("%s: %s\n", m.value("role", "").c_str(), m.value("content", "").c_str());
}

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talks with a model in the terminal");
  o->run.add_to(*command, kFastestType);
  o->sampling.add_to(*command);
  command->add_option("--system", o->system, "what the model is told before everything else");
  command->add_option("--load", o->load, "conversation to go on with, as /save wrote it");
  command->add_option("--template", o->chat_template,
                      "chat template instead of the model's: a .jinja file or a folder");
  command->add_option("--context", o->context, "tokens that all conversations together may hold in memory")
      ->check(CLI::Range(int64_t(64), int64_t(1) << 40))
      ->capture_default_str();
  command->callback([o] { Chat(*o, load_model(o->run, o->run.type(fastest_type(o->run.where())))).run(); });
}

}  // namespace fulgur

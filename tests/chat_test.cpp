// label: slow
// fulgur chat, as a person at a terminal uses it: typed keys go into a pseudo-terminal, what appears is read back.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;

class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments) {
    std::vector<std::string> all{program(), "chat"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& a : all) argv.push_back(a.data());
    argv.push_back(nullptr);
    child_ = forkpty(&screen_, nullptr, nullptr, nullptr);
    if (child_ != 0) return;
    setenv("TERM", "xterm", 1), setenv("LC_ALL", "C.UTF-8", 1), setenv("HOME", "/nonexistent", 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Terminal() {
    if (child_ > 0) kill(child_, SIGKILL), waitpid(child_, nullptr, 0);
    close(screen_);
  }

  void type(const std::string& keys) const {
    ASSERT_EQ(write(screen_, keys.data(), keys.size()), ssize_t(keys.size()));
  }
  // Everything that appeared up to and with `text`; fails after ten seconds.
  std::string until(const std::string& text) {
    for (int waited = 0; seen_.find(text) == seen_.npos && waited < 100; ++waited) read_some();
    const size_t at = seen_.find(text);
    if (at == seen_.npos) {
      ADD_FAILURE() << "expected \"" << text << "\" in: " << seen_;
      return {};
    }
    const std::string before = seen_.substr(0, at + text.size());
    seen_.erase(0, at + text.size());
    return before;
  }
  int exit_code() {
    int status = 0;
    for (int waited = 0; waitpid(child_, &status, WNOHANG) == 0; ++waited) {
      if (waited == 100) return -1;
      read_some();
    }
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
  }

 private:
  void read_some() {
    pollfd ready{screen_, POLLIN, 0};
    if (poll(&ready, 1, 100) <= 0) return;
    char bytes[4096];
    const ssize_t count = read(screen_, bytes, sizeof bytes);
    if (count > 0) seen_.append(bytes, size_t(count));
    else usleep(100000);  // the child is gone
  }
  int screen_ = -1;
  pid_t child_ = -1;
  std::string seen_;
};

// A model of a few training steps, with and without a chat template.
class Chat : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (program().empty()) return;
    scratch_ = new Scratch;
    const fs::path old = fs::current_path();
    fs::current_path(FULGUR_SOURCE);
    expect_exit(run_program({"train", "configs/tiny.toml", "--set", "run.dir=" + (*scratch_ / "run").string(), "--set",
                             "train.steps=3"},
                            *scratch_ / "train"),
                0);
    fs::current_path(old);
    plain_ = (*scratch_ / "run" / "model").string();
    templated_ = (*scratch_ / "templated").string();
    fs::copy(plain_, templated_, fs::copy_options::recursive);
    spill(fs::path(templated_) / "chat_template.jinja",
          "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% "
          "endif %}");
  }
  static void TearDownTestSuite() { delete scratch_; }
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the build has no program";
  }
  static inline Scratch* scratch_ = nullptr;
  static inline std::string plain_, templated_;
};

TEST_F(Chat, types_edits_and_leaves) {
  Terminal t({templated_, "--max-tokens", "5"});
  t.until("/help lists");
  t.until("> ");
  t.type("你好,世界\n");
  t.until("tokens/s");
  t.until("> ");
  t.type("你错\b好吗\n");  // a character of three bytes goes with one key
  t.until("tokens/s");
  t.until("> ");
  t.type("/history\n");
  const std::string said = t.until("> ");
  EXPECT_NE(said.find("user: 你好,世界\r\n"), said.npos) << said;
  EXPECT_NE(said.find("user: 你好吗\r\n"), said.npos) << said;
  t.type("/nothing\n");
  t.until("there is no /nothing");
  t.until("> ");
  t.type("\x04");  // Ctrl-D
  EXPECT_EQ(t.exit_code(), 0);
}

TEST_F(Chat, interrupting_stops_the_answer_and_not_the_program) {
  // No token that would end the answer by itself: those of the configuration are the vocabulary's last ones.
  std::vector<std::string> options{templated_, "--max-tokens", "100000", "--context", "120000"};
  for (int id = 500; id < 512; ++id) options.insert(options.end(), {"--logit-bias", std::to_string(id) + "=-1000"});
  Terminal t(options);
  t.until("> ");
  t.type("a line that is given up\x03");
  t.until("^C");
  t.until("> ");
  t.type("Once\n");
  t.until("Once");
  usleep(300000);
  t.type("\x03");
  const std::string rate = t.until("tokens/s");
  EXPECT_EQ(rate.find("[100000 tokens"), rate.npos);
  t.until("> ");
  t.type("/history\n");
  t.until("user: Once");
  t.until("assistant: ");
  t.type("/quit\n");
  EXPECT_EQ(t.exit_code(), 0);
}

// What a chat prints that is told these lines through a pipe.
std::string told(const std::string& lines, const std::string& model, const fs::path& outputs,
                 std::string* errors = {}) {
  spill(outputs.string() + ".in", lines);
  const std::string command =
      program() + " chat " + model + " --max-tokens 50 --seed 4 --threads 1 <" + outputs.string() + ".in";
  const Finished done = Child({"/bin/sh", "-c", command}, outputs).wait();
  EXPECT_EQ(done.exit, 0) << done.err;
  if (errors) *errors = done.err;
  return done.out;
}

TEST_F(Chat, forks_undoes_saves_and_loads) {
  const fs::path out = *scratch_ / "told", file = *scratch_ / "talk.session";
  const std::string begin = told("Once upon\n", templated_, out),
                    whole = told("Once upon\nAnd then\n", templated_, out);
  ASSERT_TRUE(whole.starts_with(begin));
  const std::string second = whole.substr(begin.size());
  const auto expect_second = [&](const std::string& lines) {
    const std::string printed = told(lines, templated_, out);
    EXPECT_TRUE(printed.ends_with(second)) << lines << printed;
  };
  expect_second("Once upon\nSomething else\n/undo\nAnd then\n");
  expect_second("Once upon\n/fork\nSomething else\n/go 1\nAnd then\n");
  expect_second("Once upon\n/fork\nSomething else\n/undo\nAnd then\n");
  expect_second("Other\n/edit\nOnce upon\n/save " + file.string() + "\nAnd then\n");
  expect_second("/load " + file.string() + "\nAnd then\n");
  expect_second("/system Be brief.\nOther\n/reset\n/system\nOnce upon\nAnd then\n");

  EXPECT_EQ(told("Once upon\n/retry\n", templated_, out).find(begin + begin), std::string::npos) << "another answer";
  std::string errors;
  told("/load " + file.string() + "\n", plain_, out, &errors);
  EXPECT_NE(errors.find("chat template"), errors.npos) << errors;
  told("/undo\n/load /nonexistent\n/set top_p 3\n/go 7\n", templated_, out, &errors);
  for (const char* said : {"nothing to undo", "/nonexistent", "top_p", "from 1 to 1"})
    EXPECT_NE(errors.find(said), errors.npos) << errors;
}

TEST_F(Chat, without_a_template_it_goes_on_with_the_text) {
  const std::string answer = told("Once upon a time\n", plain_, *scratch_ / "told");
  const Finished generated = run_program(
      {"generate", plain_, "--prompt", "Once upon a time", "--max-tokens", "50", "--seed", "4", "--threads", "1"},
      *scratch_ / "generated");
  EXPECT_EQ("Once upon a time" + answer, generated.out);
}

}  // namespace
}  // namespace fulgur::tests

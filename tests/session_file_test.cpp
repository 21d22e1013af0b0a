// Sessions on disk: they go on bit for bit, refuse what they do not belong to, and survive being killed while saved.
#include "generate/session_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/random.h"
#include "generate/scheduler.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"

namespace fulgur::tests {
namespace {

namespace fs = std::filesystem;

const SessionBinding kBinding{.model = "m1", .chat_template = "t1", .dtype = "f32"};

struct Talk {
  TinyModel model{tiny_config(), DType::f32, 3};
  Engine engine{model.config, model.weights, {.sequences = 2, .tokens = 600}};
  Scheduler scheduler{engine};

  void say(SessionId id, std::vector<int32_t> tokens, int64_t max_tokens) {
    scheduler.ask(id, {.tokens = std::move(tokens), .max_tokens = max_tokens, .sampling = {.seed = 5}, .choice = 2});
    while (!scheduler.idle()) scheduler.step();
  }
  SavedSession saved(SessionId id) {
    return {
        .tokens = scheduler.tokens(id), .sampling = {.top_k = 7, .seed = ~uint64_t(0)}, .choice = 2, .notes = "\"é\n"};
  }
  void save(const fs::path& file, SessionId id) { save_session(file, kBinding, saved(id), scheduler.image(id)); }
  LoadedSession load(const fs::path& file, const SessionBinding& binding = kBinding) {
    return load_session(file, binding, engine.pool().shape());
  }
};

std::string failure(const std::function<void()>& body, ErrorKind kind) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return {};
}

TEST(SessionFile, goes_on_bit_for_bit) {
  const Scratch scratch;
  const fs::path file = scratch.path() / "talk.session";
  for (const int64_t length : {int64_t(1), int64_t(63), int64_t(64), int64_t(65), int64_t(200)}) {
    Talk one, two;
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < length; ++i) prompt.push_back(int32_t(philox(1, uint64_t(i), 2)[0] % 97));
    const SessionId a = one.scheduler.open();
    one.say(a, prompt, 20);
    one.save(file, a);
    LoadedSession loaded = two.load(file);
    EXPECT_EQ(loaded.session.sampling.seed, ~uint64_t(0));
    EXPECT_EQ(loaded.session.notes, "\"é\n");
    EXPECT_EQ(loaded.session.choice, 2u);
    const SessionId b = two.scheduler.open(loaded.session.tokens, std::move(loaded.image));
    one.say(a, {5, 6}, 50), two.say(b, {5, 6}, 50);
    EXPECT_EQ(one.scheduler.tokens(a), two.scheduler.tokens(b));
    one.save(scratch.path() / "one", a), two.save(scratch.path() / "two", b);
    EXPECT_EQ(slurp(scratch.path() / "one"), slurp(scratch.path() / "two")) << length;
  }
}

TEST(SessionFile, refuses_what_it_does_not_belong_to_and_names_it) {
  const Scratch scratch;
  const fs::path file = scratch.path() / "talk.session";
  Talk talk;
  const SessionId id = talk.scheduler.open();
  talk.say(id, {1, 2, 3}, 5);
  talk.save(file, id);
  const auto refused = [&](SessionBinding other) {
    return failure([&] { talk.load(file, other); }, ErrorKind::invalid_input);
  };
  SessionBinding other = kBinding;
  other.model = "m2";
  EXPECT_NE(refused(other).find("model \"m1\", here it is \"m2\""), std::string::npos) << refused(other);
  other = kBinding, other.chat_template = "";
  EXPECT_NE(refused(other).find("chat template \"t1\", here it is none"), std::string::npos) << refused(other);
  other = kBinding, other.dtype = "bf16";
  EXPECT_NE(refused(other).find("dtype \"f32\", here it is \"bf16\""), std::string::npos) << refused(other);
}

// Whatever byte is changed and wherever the file ends, it is refused as damaged (or, where a name was hit, as foreign).
TEST(SessionFile, notices_any_damage) {
  const Scratch scratch;
  const fs::path file = scratch.path() / "talk.session";
  Talk talk;
  const SessionId id = talk.scheduler.open();
  talk.say(id, {1, 2, 3}, 5);
  talk.save(file, id);
  const std::string whole = slurp(file);
  const auto outcome = [&](const std::string& bytes) -> std::optional<ErrorKind> {
    spill(file, bytes);
    try {
      talk.load(file);
      return {};  // it was taken
    } catch (const Error& e) {
      return e.kind();
    }
  };
  EXPECT_EQ(outcome(whole), std::nullopt);
  for (uint64_t i = 0; i < 600; ++i) {
    std::string bytes = whole;
    const size_t at = i < 300 ? size_t(i) * 7 % 2000 : philox(9, i, 1)[0] % whole.size();
    bytes[at] = char(bytes[at] ^ char(1 << philox(9, i, 2)[0] % 8));
    EXPECT_EQ(outcome(bytes), ErrorKind::corrupt_file) << "byte " << at;
    EXPECT_EQ(outcome(whole.substr(0, philox(9, i, 3)[0] % whole.size())), ErrorKind::corrupt_file);
  }
}

TEST(SessionFile, killed_at_any_instant_it_opens_at_its_last_completed_save) {
  const Scratch scratch;
  const fs::path file = scratch.path() / "talk.session", count = scratch.path() / "count";
  Talk talk;
  const SessionId id = talk.scheduler.open();
  talk.say(id, {1, 2, 3}, 200);
  talk.save(file, id);
  for (uint64_t attempt = 0; attempt < 20; ++attempt) {
    int done[2];
    ASSERT_EQ(pipe(done), 0);
    const pid_t child = fork();
    if (child == 0) {  // saves with a growing choice and tells each that is done
      SavedSession session = talk.saved(id);
      const StateImage& image = talk.scheduler.image(id);
      for (uint64_t n = 1;; ++n) {
        session.choice = n;
        save_session(file, kBinding, session, image);
        if (write(done[1], &n, sizeof n) != sizeof n) _exit(1);
      }
    }
    close(done[1]);
    usleep(useconds_t(philox(4, attempt, 1)[0] % 30000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    uint64_t last = 0, n;
    while (read(done[0], &n, sizeof n) == ssize_t(sizeof n)) last = n;
    close(done[0]);
    const uint64_t found = talk.load(file).session.choice;
    EXPECT_TRUE(last == 0 || found == last || found == last + 1) << found << " after " << last;
  }
}

}  // namespace
}  // namespace fulgur::tests

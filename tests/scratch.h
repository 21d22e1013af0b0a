// What the tests of files share: a folder that goes away, errors with their kind and words, hand-made safetensors
// files, and the built program run as a child.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/error.h"

extern char** environ;

namespace fulgur::tests {

class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "fulgur_XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spill(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), std::streamsize(bytes.size()));
}

inline std::filesystem::path golden_folder(const std::string& name) {
  return std::filesystem::path(FULGUR_SOURCE) / "tests" / "golden" / name;
}

// A copy that may be damaged: a golden's configuration and weights alone.
inline void copy_model(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::filesystem::create_directories(to);
  for (const char* name : {"config.json", "model.safetensors"}) spill(to / name, slurp(from / name));
}

// A file of the given header and data, whatever they say.
inline std::string raw_safetensors(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += char(uint64_t(header.size()) >> (8 * i) & 0xff);
  return bytes + header + data;
}

// The header's text and the data after it.
inline std::pair<std::string, std::string> split_safetensors(const std::string& bytes) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  return {bytes.substr(8, length), bytes.substr(8 + length)};
}

inline std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  EXPECT_NE(at, text.npos) << "nothing to replace: " << what;
  return at == text.npos ? text : text.replace(at, what.size(), with);
}

// body() throws an Error of this kind, whose one line holds each of the words.
template <class Body>
void expect_error(ErrorKind kind, const std::vector<std::string>& words, Body&& body) {
  try {
    body();
    ADD_FAILURE() << "no error where one with \"" << words.front() << "\" was expected";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(int(error.kind()), int(kind)) << what;
    EXPECT_EQ(what.find('\n'), what.npos) << what;
    for (const std::string& word : words) EXPECT_NE(what.find(word), what.npos) << "\"" << word << "\" in: " << what;
  }
}

// The built program; empty where the build has none.
inline std::string program() {
#ifdef FULGUR_PROGRAM
  std::error_code ignored;
  if (std::filesystem::exists(FULGUR_PROGRAM, ignored)) return FULGUR_PROGRAM;
#endif
  return {};
}

struct Finished {
  int exit = -1;  // -1: ended by a signal
  int signal = 0;
  std::string out, err;
};

// A child with its outputs in files; wait() ends it after the seconds given.
class Child {
 public:
  Child(const std::vector<std::string>& arguments, const std::filesystem::path& outputs) : outputs_(outputs) {
    std::vector<char*> argv;
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, (outputs_.string() + ".out").c_str(), flags, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, (outputs_.string() + ".err").c_str(), flags, 0600);
    if (posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
  }

  void send(int signal) const { kill(pid_, signal); }

  Finished wait(int seconds = 60) {
    Finished finished;
    if (pid_ < 0) return finished;
    int status = 0;
    for (int waited_ms = 0; waitpid(pid_, &status, WNOHANG) == 0; ++waited_ms) {
      if (waited_ms == seconds * 1000) kill(pid_, SIGKILL);
      usleep(1000);
    }
    if (WIFEXITED(status)) finished.exit = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) finished.signal = WTERMSIG(status);
    finished.out = slurp(outputs_.string() + ".out"), finished.err = slurp(outputs_.string() + ".err");
    return finished;
  }

 private:
  std::filesystem::path outputs_;
  pid_t pid_ = -1;
};

inline Finished run_program(const std::vector<std::string>& arguments, const std::filesystem::path& outputs) {
  std::vector<std::string> all{program()};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return Child(all, outputs).wait();
}

// What every run owes: an exit code of the contract, and one line where it is not zero.
inline void expect_exit(const Finished& finished, int code) {
  EXPECT_EQ(finished.signal, 0);
  EXPECT_EQ(finished.exit, code) << finished.err;
  const bool one_line = !finished.err.empty() && finished.err.find('\n') == finished.err.size() - 1;
  EXPECT_TRUE(finished.exit == 0 || one_line) << finished.err;
}

}  // namespace fulgur::tests

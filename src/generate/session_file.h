// A conversation in one file: tokens, how they are drawn, and the model's state, so that it goes on to the same bits
// after a restart. A safetensors file (docs/formats.md) whose header holds a digest of every part; it is replaced in
// one step, so that a save that is cut off leaves the one before it.
#pragma once
#include <filesystem>
#include <string>

#include "generate/sequence.h"
#include "state/state_image.h"

namespace fulgur {

// What a saved state belongs to. Texts that are compared and shown, digests where they stand for files.
struct SessionBinding {
  std::string model;          // digest of configuration and weights
  std::string chat_template;  // digest of its text; empty: none
  std::string dtype;          // run type
};

struct SavedSession {
  std::vector<int32_t> tokens;
  Sampling sampling;
  uint64_t choice = 0;
  std::string notes;  // the application's own, such as the messages that the tokens came from
};

// Throws not_found where the disk refuses; then an older file of that name is as it was.
void save_session(const std::filesystem::path& file, const SessionBinding& binding, const SavedSession& session,
                  const StateImage& image);

struct LoadedSession {
  SavedSession session;
  StateImage image;
};
// Throws not_found, corrupt_file naming the part, and invalid_input naming the difference where the session belongs to
// another model, template or element type.
LoadedSession load_session(const std::filesystem::path& file, const SessionBinding& binding, const StateShape& shape);

}  // namespace fulgur

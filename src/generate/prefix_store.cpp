#include "generate/prefix_store.h"

#include <algorithm>
#include <set>

#include "files/digest.h"
#include "files/disk.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExtension = ".state";

std::string key_of(std::span<const int32_t> tokens) { return digest_of(std::as_bytes(tokens)); }

}  // namespace

PrefixStore::PrefixStore(PrefixStoreOptions options) : options_(std::move(options)) {
  if (options_.folder.empty()) return;
  disk::make_folder(options_.folder);
  std::set<fs::path> files;  // in one order, whatever the disk's
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.folder))
    if (entry.is_regular_file() && entry.path().extension() == kExtension) files.insert(entry.path());
  for (const fs::path& file : files) find_again(file);
  shrink();
}

fs::path PrefixStore::file_of(const std::string& key) const { return options_.folder / (key + kExtension); }

void PrefixStore::find_again(const fs::path& file) {
  try {
    LoadedSession loaded = load_session(file, options_.binding, options_.shape);
    const std::string key = key_of(loaded.session.tokens);
    const size_t bytes = loaded.image.bytes();
    if (file != file_of(key)) return;  // not one of ours
    entries_[key] = {std::move(loaded.session.tokens), {}, bytes, ++uses_};
    disk_bytes_ += bytes;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::corrupt_file) return;  // another model's
    disk::remove(file);
    ++damaged_files_;
  }
}

void PrefixStore::put(std::span<const int32_t> tokens, StateImage image) {
  expect(image.position() == int64_t(tokens.size()), "a stored state covers its tokens");
  const std::string key = key_of(tokens);
  if (const Place known = entries_.find(key); known != entries_.end()) forget(known);
  const size_t bytes = image.bytes();
  entries_[key] = {{tokens.begin(), tokens.end()}, std::move(image), bytes, ++uses_};
  memory_bytes_ += bytes;
  shrink();
}

std::optional<StateImage> PrefixStore::find(std::span<const int32_t> tokens) {
  std::set<size_t, std::greater<>> lengths;
  for (const auto& [key, entry] : entries_)
    if (entry.tokens.size() <= tokens.size()) lengths.insert(entry.tokens.size());
  for (const size_t length : lengths) {
    const Place found = entries_.find(key_of(tokens.first(length)));
    if (found == entries_.end() ||
        !std::equal(found->second.tokens.begin(), found->second.tokens.end(), tokens.begin()))
      continue;
    found->second.used = ++uses_;
    if (std::optional<StateImage> image = image_of(found)) return image;
  }
  return {};
}

std::optional<StateImage> PrefixStore::image_of(Place entry) {
  if (entry->second.image) return entry->second.image->twin();
  try {
    LoadedSession loaded = load_session(file_of(entry->first), options_.binding, options_.shape);
    if (loaded.session.tokens == entry->second.tokens) return std::move(loaded.image);
  } catch (const Error&) {
    ++damaged_files_;
  }
  forget(entry);
  return {};
}

PrefixStore::Place PrefixStore::least_used(bool in_memory) {
  Place least = entries_.end();
  for (Place at = entries_.begin(); at != entries_.end(); ++at)
    if (at->second.image.has_value() == in_memory && (least == entries_.end() || at->second.used < least->second.used))
      least = at;
  return least;
}

void PrefixStore::shrink() {
  while (memory_bytes_ > options_.memory_bytes) {
    const Place entry = least_used(true);
    Entry& e = entry->second;
    if (options_.folder.empty() || e.bytes > options_.disk_bytes) {
      forget(entry);
      continue;
    }
    save_session(file_of(entry->first), options_.binding, {.tokens = e.tokens, .sampling = {}, .notes = {}}, *e.image);
    memory_bytes_ -= e.bytes, disk_bytes_ += e.bytes;
    e.image.reset();
  }
  while (disk_bytes_ > options_.disk_bytes) forget(least_used(false));
}

void PrefixStore::forget(Place entry) {
  const Entry& e = entry->second;
  (e.image ? memory_bytes_ : disk_bytes_) -= e.bytes;
  if (!e.image) disk::remove(file_of(entry->first));
  entries_.erase(entry);
}

}  // namespace fulgur

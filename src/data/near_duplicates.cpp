#include "data/near_duplicates.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "data/min_hash.h"
#include "data/shingles.h"
#include "files/disk.h"
#include "files/mmap.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

// A document's key in one band; equal keys make candidates.
struct BandKey {
  uint64_t key, document;
  auto operator<=>(const BandKey&) const = default;
};

// A bucket compares each document with its first and with the last before it, this many of both: all pairs where there
// are at most twice as many, and bounded work where a template has made thousands alike.
constexpr size_t kNeighbours = 64;
constexpr size_t kPieces = 16;  // of the keys in memory, sorted side by side

// A scratch file, written from its begin to its end; nothing of it outlives its owner.
class Spill {
 public:
  explicit Spill(fs::path path) : path_(std::move(path)), descriptor_(disk::create(path_)) {}
  Spill(const Spill&) = delete;
  Spill& operator=(const Spill&) = delete;
  ~Spill() {
    close(descriptor_);
    unlink(path_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    if (buffer_.size() + bytes.size() > kBuffer) drain();
    if (bytes.size() > kBuffer) disk::write(descriptor_, bytes, path_);
    else buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  MappedFile map() {
    drain();
    return MappedFile(path_);
  }

 private:
  static constexpr size_t kBuffer = 1 << 20;
  void drain() {
    if (!buffer_.empty()) disk::write(descriptor_, buffer_, path_);
    buffer_.clear();
  }

  fs::path path_;
  int descriptor_;
  std::vector<std::byte> buffer_;
};

// Sets of 0 .. n-1; the lowest member stands for its set.
class Clusters {
 public:
  void reset(size_t n) {
    parent_.resize(n);
    std::iota(parent_.begin(), parent_.end(), 0);
  }
  uint32_t lowest(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return uint32_t(i);
  }
  void unite(size_t a, size_t b) {
    const auto [low, high] = std::minmax({lowest(a), lowest(b)});
    parent_[high] = low;
  }

 private:
  std::vector<uint32_t> parent_;
};

template <class T>
std::span<const T> as(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

using Pairs = std::vector<std::pair<uint32_t, uint32_t>>;  // of documents
using Pieces = std::vector<std::pair<size_t, size_t>>;     // begin and length

}  // namespace

// Signatures go to a file, each after its document's id. Band keys gather in memory and go, sorted in pieces, to
// another when they fill half of it; the other half is for the ranges of keys that are brought together from all
// pieces.
struct NearDuplicates::Store {
  Store(const fs::path& folder, const Options& options, int count)
      : threads(count),
        banding(banding_for(options.jaccard, options.hashes)),
        words(size_t(options.hashes) + 2),
        limit(std::max<size_t>(size_t(options.memory_bytes) / 2 / sizeof(BandKey), kPieces)),
        signatures(folder / "near_duplicates.signatures"),
        spilled(folder / "near_duplicates.keys") {}

  void add(uint64_t document, std::span<const uint32_t> signature);
  Pieces sort_keys();
  void spill_keys();
  void close_runs();
  int64_t find_pairs(uint64_t first, uint64_t last, Pairs& pairs) const;
  void compare(std::span<const BandKey> bucket, Clusters& local, Pairs& pairs) const;
  bool alike(uint64_t a, uint64_t b) const;
  std::span<const uint32_t> record(uint64_t i) const { return as<uint32_t>(mapped->bytes()).subspan(i * words, words); }
  uint64_t id_of(uint64_t i) const { return record(i)[0] | uint64_t(record(i)[1]) << 32; }

  Threads threads;
  const Banding banding;
  const size_t words;  // of a record: id and signature
  const size_t limit;  // keys in memory
  uint64_t documents = 0, last_document = 0;
  Spill signatures, spilled;
  std::vector<BandKey> keys;
  size_t spilled_keys = 0;
  Pieces spilled_runs;  // of the keys in the file
  std::optional<MappedFile> mapped, mapped_keys;
  std::vector<std::span<const BandKey>> runs;  // each ascending
};

void NearDuplicates::Store::add(uint64_t document, std::span<const uint32_t> signature) {
  expect(signature.size() + 2 == words, "a signature has as many hashes as the options say");
  expect(documents == 0 || document > last_document, "documents come in ascending order");
  if (documents >= UINT32_MAX)
    fail(ErrorKind::unsupported, "near duplicates: more than " + std::to_string(UINT32_MAX) + " documents");
  expect(!mapped, "no document comes after duplicates()");
  if (keys.size() + size_t(banding.bands) > limit) spill_keys();
  const uint32_t id[] = {uint32_t(document), uint32_t(document >> 32)};
  signatures.write(std::as_bytes(std::span(id)));
  signatures.write(std::as_bytes(signature));
  for (int band = 0; band < banding.bands; ++band) {
    uint64_t key = uint64_t(band);
    for (const uint32_t value : signature.subspan(size_t(band * banding.rows), size_t(banding.rows)))
      key = mixed(key ^ value);
    keys.push_back({key, documents});
  }
  ++documents, last_document = document;
}

Pieces NearDuplicates::Store::sort_keys() {
  const size_t grain = keys.size() / kPieces + 1;
  Pieces pieces;
  for (size_t at = 0; at < keys.size(); at += grain) pieces.emplace_back(at, std::min(grain, keys.size() - at));
  threads.for_each(int64_t(pieces.size()), [&](int64_t i) {
    const auto [begin, count] = pieces[size_t(i)];
    const std::span<BandKey> piece = std::span(keys).subspan(begin, count);
    std::sort(piece.begin(), piece.end());
  });
  return pieces;
}

void NearDuplicates::Store::spill_keys() {
  for (const auto& [begin, count] : sort_keys()) spilled_runs.emplace_back(spilled_keys + begin, count);
  spilled.write(std::as_bytes(std::span(keys)));
  spilled_keys += keys.size();
  keys.clear();
}

// After the last add: all files mapped, all runs in `runs`.
void NearDuplicates::Store::close_runs() {
  const Pieces pieces = sort_keys();
  mapped.emplace(signatures.map()), mapped_keys.emplace(spilled.map());
  const std::span<const BandKey> in_file = as<BandKey>(mapped_keys->bytes()), in_memory(keys);
  for (const auto& [begin, count] : spilled_runs) runs.push_back(in_file.subspan(begin, count));
  for (const auto& [begin, count] : pieces) runs.push_back(in_memory.subspan(begin, count));
}

bool NearDuplicates::Store::alike(uint64_t a, uint64_t b) const {
  const std::span<const uint32_t> x = record(a), y = record(b);
  int equal = 0;
  for (size_t i = 2; i < words; ++i) equal += x[i] == y[i];
  return equal >= banding.matches;
}

// Appends the pairs of a bucket that are alike, as few as hold their clusters together.
void NearDuplicates::Store::compare(std::span<const BandKey> bucket, Clusters& local, Pairs& pairs) const {
  local.reset(bucket.size());
  const auto judge = [&](size_t i, size_t j) {
    const uint64_t a = bucket[i].document, b = bucket[j].document;
    if (local.lowest(i) != local.lowest(j) && alike(a, b))
      local.unite(i, j), pairs.emplace_back(uint32_t(a), uint32_t(b));
  };
  for (size_t j = 1; j < bucket.size(); ++j) {
    const size_t first = std::min(j, kNeighbours);
    for (size_t i = 0; i < first; ++i) judge(i, j);
    for (size_t i = std::max(first, j - first); i < j; ++i) judge(i, j);
  }
}

// Of the keys in [first, last]; returns how many there are.
int64_t NearDuplicates::Store::find_pairs(uint64_t first, uint64_t last, Pairs& pairs) const {
  std::vector<BandKey> range;
  for (const std::span<const BandKey> run : runs) {
    const auto begin = std::lower_bound(run.begin(), run.end(), BandKey{first, 0});
    const auto end = std::upper_bound(begin, run.end(), BandKey{last, UINT64_MAX});
    range.insert(range.end(), begin, end);
  }
  std::sort(range.begin(), range.end());
  Clusters local;
  for (size_t begin = 0, end; begin < range.size(); begin = end) {
    for (end = begin + 1; end < range.size() && range[end].key == range[begin].key;) ++end;
    if (end - begin > 1) compare(std::span(range).subspan(begin, end - begin), local, pairs);
  }
  return int64_t(range.size());
}

NearDuplicates::NearDuplicates(fs::path work_folder, Options options, int threads) {
  const auto refuse = [](const std::string& what) { fail(ErrorKind::invalid_input, "near duplicates: " + what); };
  if (!(options.jaccard > 0 && options.jaccard <= 1))
    refuse("jaccard is " + std::to_string(options.jaccard) + ", expected more than 0 and at most 1");
  if (options.hashes < 16 || options.hashes > 1024)
    refuse("hashes is " + std::to_string(options.hashes) + ", expected 16 to 1024");
  if (options.memory_bytes < 1)
    refuse("memory_bytes is " + std::to_string(options.memory_bytes) + ", expected more than 0");
  store_ = std::make_unique<Store>(work_folder, options, threads);
}

NearDuplicates::~NearDuplicates() = default;

std::vector<uint32_t> NearDuplicates::signature(std::string_view text, const Options& options) {
  return min_hashes(shingle_hashes(text), options.hashes, options.seed);
}

void NearDuplicates::add(uint64_t document, std::span<const uint32_t> signature) { store_->add(document, signature); }

std::vector<uint64_t> NearDuplicates::duplicates(const std::function<void(int64_t, int64_t)>& progress) {
  Store& store = *store_;
  expect(!store.mapped, "duplicates are asked for once");
  if (store.documents == 0) return {};
  store.close_runs();
  Clusters clusters;
  clusters.reset(store.documents);
  const int64_t total = int64_t(store.documents) * store.banding.bands;
  const size_t share = std::max<size_t>(store.limit / size_t(store.threads.count()), 1);
  const int bits =
      std::max(int(std::bit_width(size_t(total) / share)) + 1, 6);  // ranges of about half a share, or less
  std::mutex mutex;
  int64_t done = 0;
  store.threads.for_each(int64_t(1) << bits, [&](int64_t i) {
    Pairs pairs;
    const uint64_t first = uint64_t(i) << (64 - bits), last = first + (UINT64_MAX >> bits);
    const int64_t keys = store.find_pairs(first, last, pairs);
    const std::lock_guard lock(mutex);
    for (const auto& [a, b] : pairs) clusters.unite(a, b);
    done += keys;
    if (progress) progress(done, total);
  });
  std::vector<uint64_t> dropped;
  for (uint64_t i = 0; i < store.documents; ++i)
    if (clusters.lowest(i) != i) dropped.push_back(store.id_of(i));
  return dropped;
}

}  // namespace fulgur

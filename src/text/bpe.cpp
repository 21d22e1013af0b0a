// Short words are merged in a small array that is searched anew each time; long ones in a linked list with a heap.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr size_t kShortWord = 64;

}  // namespace

BytePairMerger::BytePairMerger(std::span<const int32_t, 256> byte_ids, std::span<const Merge> merges,
                               std::span<const std::string> tokens)
    : byte_ids_(byte_ids.begin(), byte_ids.end()), byte_ranks_(256 * 256, kNoMerge), crossed_(size_t(1) << 23) {
  const size_t slots = std::bit_ceil(2 * merges.size() + 2);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  slots_.assign(slots, kEmpty);
  results_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const uint64_t rank = results_.size(), key = uint64_t(merge.left) << kIdBits | uint64_t(merge.right);
    expect(uint64_t(merge.left) <= kIdMask && uint64_t(merge.right) <= kIdMask && rank < kIdMask,
           "ids and ranks of a vocabulary fit 21 bits");
    results_.push_back(merge.result);
    mark_crossed(tokens[size_t(merge.result)]);
    size_t slot = key * kHashFactor >> shift_;
    while (slots_[slot] != kEmpty && slots_[slot] >> kIdBits != key) slot = (slot + 1) & mask_;
    slots_[slot] = key << kIdBits | rank;  // of two merges of one pair the later counts
  }
  for (size_t left = 0; left < 256; ++left) {
    for (size_t right = 0; right < 256; ++right) {
      byte_ranks_[left * 256 + right] = rank_of(byte_ids[left], byte_ids[right]);
    }
  }
}

void BytePairMerger::mark_crossed(std::string_view token) {
  const auto byte = [&](size_t i) { return uint8_t(token[i]); };
  for (size_t at = 1; at < token.size(); ++at) {
    if (!is_place(byte(at - 1), byte(at))) continue;
    // Bytes that the token does not show may be any.
    const bool knows_before = at >= 2, knows_second = at + 1 < token.size();
    for (uint8_t before = 0; before < (knows_before ? 1 : 64); ++before) {
      for (uint8_t second = 0; second < (knows_second ? 1 : 64); ++second) {
        crossed_[place_key(knows_before ? byte(at - 2) : before, byte(at - 1), byte(at),
                           knows_second ? byte(at + 1) : second)] = true;
      }
    }
  }
}

size_t BytePairMerger::independent_prefix(std::string_view word) const {
  const auto byte = [&](size_t i) { return uint8_t(word[i]); };
  for (size_t at = 2; at + 1 < word.size(); ++at) {
    if (is_place(byte(at - 1), byte(at)) && !crossed_[place_key(byte(at - 2), byte(at - 1), byte(at), byte(at + 1))]) {
      return at;
    }
  }
  return word.size();
}

void BytePairMerger::append_tokens(std::string_view word, std::vector<int32_t>& out) const {
  if (word.size() <= kShortWord) {
    append_short(word, out);
  } else {
    append_long(word, out);
  }
}

void BytePairMerger::append_short(std::string_view word, std::vector<int32_t>& out) const {
  int32_t ids[kShortWord];
  uint32_t ranks[kShortWord];  // of the token and the one after it
  size_t count = word.size();
  const auto byte = [&](size_t i) { return uint8_t(word[i]); };
  for (size_t i = 0; i < count; ++i) ids[i] = byte_ids_[byte(i)];
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = byte_ranks_[size_t(byte(i)) * 256 + byte(i + 1)];
  while (count > 1) {
    const size_t at = size_t(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[at] == kNoMerge) break;
    ids[at] = results_[ranks[at]];
    --count;
    std::memmove(ids + at + 1, ids + at + 2, (count - at - 1) * sizeof ids[0]);
    std::memmove(ranks + at, ranks + at + 1, (count - at) * sizeof ranks[0]);
    if (at + 1 < count) ranks[at] = rank_of(ids[at], ids[at + 1]);
    if (at > 0) ranks[at - 1] = rank_of(ids[at - 1], ids[at]);
  }
  out.insert(out.end(), ids, ids + count);
}

void BytePairMerger::append_long(std::string_view word, std::vector<int32_t>& out) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  expect(word.size() < kEnd, "a word is shorter than 4 GiB");
  const auto length = uint32_t(word.size());
  struct Node {
    int32_t id;
    uint32_t rank, previous, next;
  };
  std::vector<Node> nodes(length);
  using Candidate = std::pair<uint32_t, uint32_t>;  // rank, then position: the leftmost of equals comes first
  std::vector<Candidate> candidates;
  for (uint32_t i = 0; i < length; ++i) {
    nodes[i] = {byte_ids_[uint8_t(word[i])], kNoMerge, i - 1, i + 1 < length ? i + 1 : kEnd};
  }
  const auto update = [&](uint32_t at) {
    Node& node = nodes[at];
    node.rank = node.next == kEnd ? kNoMerge : rank_of(node.id, nodes[node.next].id);
    return node.rank != kNoMerge;
  };
  for (uint32_t i = 0; i < length; ++i) {
    if (update(i)) candidates.emplace_back(nodes[i].rank, i);
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue({}, std::move(candidates));
  while (!queue.empty()) {
    const auto [rank, at] = queue.top();
    queue.pop();
    Node& node = nodes[at];
    if (node.rank != rank) continue;  // one of the two has merged otherwise since
    Node& gone = nodes[node.next];
    node.id = results_[rank];
    node.next = gone.next;
    gone.rank = kNoMerge;
    if (node.next != kEnd) nodes[node.next].previous = at;
    if (update(at)) queue.emplace(node.rank, at);
    if (at > 0 && update(node.previous)) queue.emplace(nodes[node.previous].rank, node.previous);
  }
  for (uint32_t at = 0; at != kEnd; at = nodes[at].next) out.push_back(nodes[at].id);
}

WordCache::WordCache(size_t entries) : entries_(std::bit_ceil(std::max<size_t>(entries, 2))) {
  shift_ = 64 - std::countr_zero(entries_.size());
}

WordCache::Entry& WordCache::place(std::string_view word, const char* text_end, uint64_t (&key)[2]) {
  const size_t length = word.size();
  if (text_end - word.data() >= 16) {
    std::memcpy(key, word.data(), 16);
    const int unused = int(8 * length) & 63;  // bits in use of the word that the end falls into
    const uint64_t kept = (uint64_t(1) << unused) - 1;
    key[0] = length < 8 ? key[0] & kept : key[0];
    key[1] = length < 8 ? 0 : key[1] & kept;
  } else {
    key[0] = key[1] = 0;
    std::memcpy(key, word.data(), length);
  }
  key[1] |= uint64_t(length) << 56;
  const uint64_t mixed = (key[0] ^ std::rotl(key[1] * 0x9E3779B97F4A7C15, 32)) * 0xD6E8FEB86659FD93;
  return entries_[(mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15 >> shift_];
}

}  // namespace fulgur

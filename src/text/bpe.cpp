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
constexpr int kWholeBits = 21, kPartBits = 23;

bool is_continuation(char byte) { return (byte & 0xC0) == 0x80; }
// Cuts are made between two characters of several bytes each: other places have few bytes to tell them apart.
bool is_place(char before, char after) { return is_continuation(before) && uint8_t(after) >= 0xC0; }

size_t place_of_characters(uint32_t before, uint32_t after) {
  return (uint64_t(before) << 32 | after) * 0x9E3779B97F4A7C15 >> (64 - kWholeBits);
}

size_t place_of_bytes(uint8_t before_last, uint8_t last, uint8_t first, uint8_t second) {
  return size_t(before_last & 0x3F) << 17 | size_t(last & 0x3F) << 11 | size_t(first & 0x1F) << 6 | (second & 0x3F);
}

}  // namespace

BytePairMerger::BytePairMerger(std::span<const int32_t, 256> byte_ids, std::span<const Merge> merges,
                               std::span<const std::string> tokens)
    : byte_ids_(byte_ids.begin(), byte_ids.end()),
      byte_ranks_(256 * 256, kNoMerge),
      crossed_by_whole_(size_t(1) << kWholeBits),
      crossed_by_parts_(size_t(1) << kPartBits) {
  const size_t slots = std::bit_ceil(2 * merges.size() + 2);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  slots_.assign(slots, kEmpty);
  may_merge_.resize(size_t(1) << (64 - kFilterShift));
  results_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const uint64_t rank = results_.size(), key = uint64_t(merge.left) << kIdBits | uint64_t(merge.right);
    expect(uint64_t(merge.left) <= kIdMask && uint64_t(merge.right) <= kIdMask && rank < kIdMask,
           "ids and ranks of a vocabulary fit 21 bits");
    results_.push_back(merge.result);
    mark_crossed(tokens[size_t(merge.result)]);
    may_merge_[key * kHashFactor >> kFilterShift] = true;
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
  size_t begin = 0;  // of the character before the place
  for (size_t at = 1; at < token.size(); begin = is_continuation(token[at]) ? begin : at, ++at) {
    if (!is_place(token[at - 1], token[at])) continue;
    int unused;
    uint8_t bytes;
    if (!is_continuation(token[begin]) && utf8_sequence(token.substr(at), unused) > 0) {
      const uint32_t before = code_point_at(token.data() + begin, bytes);
      crossed_by_whole_[place_of_characters(before, code_point_at(token.data() + at, bytes))] = true;
      continue;
    }
    // Bytes that the token does not show may be any; only their low six bits count.
    const bool knows_before = at >= 2, knows_second = at + 1 < token.size();
    for (int before = 0; before < (knows_before ? 1 : 64); ++before) {
      for (int second = 0; second < (knows_second ? 1 : 64); ++second) {
        crossed_by_parts_[place_of_bytes(knows_before ? byte(at - 2) : uint8_t(before), byte(at - 1), byte(at),
                                         knows_second ? byte(at + 1) : uint8_t(second))] = true;
      }
    }
  }
}

size_t BytePairMerger::independent_prefix(std::string_view word) const {
  uint8_t bytes;
  uint32_t before = code_point_at(word.data(), bytes);
  for (size_t at = bytes; at < word.size();) {
    const char* place = word.data() + at;
    const uint32_t after = code_point_at(place, bytes);
    if (is_place(place[-1], place[0]) && !crossed_by_whole_[place_of_characters(before, after)] &&
        !crossed_by_parts_[place_of_bytes(uint8_t(place[-2]), uint8_t(place[-1]), uint8_t(place[0]),
                                          uint8_t(place[1]))]) {
      return at;
    }
    before = after;
    at += bytes;
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

}  // namespace fulgur

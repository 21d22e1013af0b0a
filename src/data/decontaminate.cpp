#include "data/decontaminate.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "base/error.h"
#include "base/random.h"

namespace fulgur {
namespace {

// Blocks begin at every kStride-th byte of a document, and are so long that each window holds a whole one: one entry
// for kStride windows. Where a block is found, the bytes around it tell whether a window is.
constexpr size_t kStride = 16, kBlock = size_t(Windows::kBytes) - kStride + 1;

// A polynomial in kBase, modulo 2^64: its high bits are the good ones.
constexpr uint64_t kBase = 0x9e3779b97f4a7c15;
constexpr uint64_t kLeaving = [] {  // kBase^kBlock: the weight of a byte as it leaves
  uint64_t power = 1;
  for (size_t i = 0; i < kBlock; ++i) power *= kBase;
  return power;
}();

uint64_t block_hash(std::string_view block) {
  uint64_t hash = 0;
  for (const char c : block) hash = hash * kBase + uint8_t(c) + 1;
  return hash;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kWhite = " \t\r\n";
  const size_t first = text.find_first_not_of(kWhite);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kWhite) + 1 - first);
}

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

template <class Places>
auto with_hash(const Places& places, uint64_t hash) {
  const auto less = [](const auto& place, uint64_t h) { return place.hash < h; };
  auto first = std::lower_bound(places.begin(), places.end(), hash, less);
  auto last = first;
  while (last != places.end() && last->hash == hash) ++last;
  return std::span(first, last);
}

}  // namespace

std::string_view Windows::document(int64_t i) const {
  const size_t begin = size_t(begin_[size_t(i)]), end = size_t(begin_[size_t(i) + 1]);
  return std::string_view(text_).substr(begin, end - begin);
}

void Windows::add(std::string_view evaluation_document) {
  expect(filter_.empty(), "no evaluation text comes after finish()");
  const bool is_short = int64_t(evaluation_document.size()) < kBytes;
  const std::string_view kept = is_short ? trimmed(evaluation_document) : evaluation_document;
  if (kept.empty()) return;
  const int64_t i = int64_t(begin_.size()) - 1;
  text_ += kept;
  begin_.push_back(int64_t(text_.size()));
  if (is_short) {
    short_documents_.push_back({fnv1a64(trimmed(first_line(kept))), i, 0});
    return;
  }
  windows_ += int64_t(kept.size()) - kBytes + 1;
  for (size_t at = 0; at + kBlock <= kept.size(); at += kStride)
    blocks_.push_back({block_hash(kept.substr(at, kBlock)), i, int64_t(at)});
}

// The block and the bytes beside it that a window may have.
std::string_view Windows::around(const Place& block) const {
  const size_t begin = size_t(block.begin), left = std::min(begin, kStride - 1);
  return document(block.document).substr(begin - left, left + kBlock + kStride - 1);
}

void Windows::index_blocks() {
  const auto key = [&](const Place& p) { return std::make_tuple(p.hash, p.begin == 0, around(p)); };
  std::sort(blocks_.begin(), blocks_.end(), [&](const Place& a, const Place& b) { return key(a) < key(b); });
  // A line of dashes may begin thousands of blocks.
  const auto same = [&](const Place& a, const Place& b) { return key(a) == key(b); };
  blocks_.erase(std::unique(blocks_.begin(), blocks_.end(), same), blocks_.end());
  filter_bits_ = std::max(int(std::bit_width(blocks_.size() * 64)), 6);
  filter_.assign(size_t(1) << (filter_bits_ - 6), 0);
  for (const Place& block : blocks_) {
    const uint64_t bit = block.hash >> (64 - filter_bits_);
    filter_[bit >> 6] |= uint64_t(1) << (bit & 63);
  }
}

void Windows::finish() {
  index_blocks();
  std::sort(short_documents_.begin(), short_documents_.end(),
            [](const Place& a, const Place& b) { return std::tie(a.hash, a.document) < std::tie(b.hash, b.document); });
}

// text [at, at + kBlock) has the block's hash: is it part of a window?
bool Windows::completes(const Place& block, std::string_view text, size_t at) const {
  const std::string_view mine = document(block.document);
  const size_t begin = size_t(block.begin);
  if (text.substr(at, kBlock) != mine.substr(begin, kBlock)) return false;
  size_t left = 0, right = 0;
  while (left < std::min({kStride - 1, begin, at}) && text[at - left - 1] == mine[begin - left - 1]) ++left;
  const size_t room = std::min({kStride - 1, mine.size() - begin - kBlock, text.size() - at - kBlock});
  while (right < room && text[at + kBlock + right] == mine[begin + kBlock + right]) ++right;
  return int64_t(left + kBlock + right) >= kBytes;
}

bool Windows::window_in(std::string_view text) const {
  if (int64_t(text.size()) < kBytes || blocks_.empty()) return false;
  uint64_t hash = block_hash(text.substr(0, kBlock));
  for (size_t at = 0;; ++at) {
    const uint64_t bit = hash >> (64 - filter_bits_);
    if (filter_[bit >> 6] >> (bit & 63) & 1) {
      for (const Place& block : with_hash(blocks_, hash))
        if (completes(block, text, at)) return true;
    }
    if (at + kBlock == text.size()) return false;
    hash = hash * kBase + uint8_t(text[at + kBlock]) + 1 - (uint8_t(text[at]) + uint64_t(1)) * kLeaving;
  }
}

bool Windows::short_document_in(std::string_view text) const {
  if (short_documents_.empty()) return false;
  const std::string_view whole = trimmed(text);
  for (std::string_view rest = whole; !rest.empty();) {
    const std::string_view line = first_line(rest);
    if (int64_t(line.size()) < kBytes) {
      for (const Place& place : with_hash(short_documents_, fnv1a64(trimmed(line)))) {
        const std::string_view mine = document(place.document);
        const size_t indent = std::min(line.find_first_not_of(" \t\r"), line.size());
        if (rest.substr(indent, mine.size()) != mine) continue;
        if (int64_t(mine.size()) < kLines ? mine == whole
                                          : trimmed(first_line(rest.substr(indent + mine.size()))).empty())
          return true;
      }
    }
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
  }
  return false;
}

bool Windows::occurs_in(std::string_view text) const {
  expect(!filter_.empty(), "finish() has come before the first search");
  return window_in(text) || short_document_in(text);
}

}  // namespace fulgur

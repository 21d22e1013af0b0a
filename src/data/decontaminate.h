// Windows: every 200-byte window of the evaluation texts, to be found in training text. What looks like a hit is
// compared byte by byte, so the answer is exact.
//
// An evaluation text shorter than a window, without the white space around it, is found where it stands as whole lines
// of the training text if it has at least kLines bytes ("Yes" as an answer must not cost every text with such a line),
// and else only where it is the whole training text.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

class Windows {
 public:
  static constexpr int64_t kBytes = 200, kLines = 50;

  // Normalised the same way as the training text.
  void add(std::string_view evaluation_document);
  // Once, after the last add.
  void finish();
  bool occurs_in(std::string_view text) const;  // thread-safe, one pass; after finish()
  int64_t size() const { return windows_; }     // windows added, repeated ones too

 private:
  struct Place {
    uint64_t hash;  // of the block of a long document that begins here; of the first line of a short one
    int64_t document, begin;
  };
  std::string_view document(int64_t i) const;
  std::string_view around(const Place& block) const;
  void index_blocks();
  bool completes(const Place& block, std::string_view text, size_t at) const;
  bool window_in(std::string_view text) const;
  bool short_document_in(std::string_view text) const;

  std::string text_;               // all evaluation documents, end to end
  std::vector<int64_t> begin_{0};  // document i is text_ [begin_[i], begin_[i + 1])
  std::vector<Place> blocks_, short_documents_;
  std::vector<uint64_t> filter_;  // a bit is set where a block's hash has it for its highest filter_bits_
  int filter_bits_ = 0;
  int64_t windows_ = 0;
};

}  // namespace fulgur

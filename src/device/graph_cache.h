// GraphCache: graphs of work that comes again and again, by all that its calls depend on but what tensors hold.
#pragma once
#include <map>
#include <memory>

#include "device/graph.h"

namespace fulgur {

// Result: what the host is to know of the work, such as where its results lie.
template <class Key, class Result>
class GraphCache {
 public:
  // What body() gives the stream, and what it returned when it last ran. The first time of a key it runs call by call,
  // which readies what a capture may not; the second time it is captured, where the device has memory for a graph; from
  // then on it is one launch.
  template <class Body>
  const Result& run(Stream& stream, const Key& key, const Body& body) {
    if (entries_.size() >= kMost && !entries_.contains(key)) entries_.clear();
    const auto [at, first] = entries_.try_emplace(key);
    Entry& entry = at->second;
    if (first || refused_) return entry.result = body();
    if (!entry.graph) {
      entry.graph = std::make_unique<Graph>(stream, [&] { entry.result = body(); });
      if (!entry.graph->ready()) return refuse(), entries_[key].result = body();
    }
    entry.graph->launch(stream), ++launched_;
    return entry.result;
  }

  int64_t launched() const { return launched_; }  // how often as a graph

 private:
  struct Entry {
    std::unique_ptr<Graph> graph;
    Result result;
  };
  static constexpr size_t kMost = 64;

  void refuse() { refused_ = true, entries_.clear(); }

  std::map<Key, Entry> entries_;
  int64_t launched_ = 0;
  bool refused_ = false;  // a graph found no memory: work goes on call by call
};

}  // namespace fulgur

// EventFile: a run's figures and samples as TensorBoard reads them: records of events.out.tfevents.*, each an Event of
// its protocol buffers, framed with masked CRC-32C (docs/formats.md).
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fulgur {

class EventFile {
 public:
  // A new file in the folder; the event files that are there go, since all that they hold is written again. Throws
  // not_found when it cannot be created.
  explicit EventFile(const std::filesystem::path& folder);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  ~EventFile();

  // time: seconds since 1970. Figures that are not finite are left out. Written through at once.
  void scalars(int64_t step, double time, const std::vector<std::pair<std::string, double>>& figures);
  void text(int64_t step, double time, const std::string& tag, const std::string& text);

 private:
  void write(std::string_view event);

  std::filesystem::path path_;
  std::FILE* file_;
};

// How TensorBoard is to group a figure: "residual_rms_3" is residual_rms/3.
std::string tag_of(const std::string& figure);

}  // namespace fulgur

#include "generate/session_file.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "files/digest.h"
#include "files/json_file.h"
#include "files/safetensors.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "fulgur-session-1";

std::span<const std::byte> bytes_of(const Tensor& t) { return {t.data, size_t(t.bytes())}; }

[[noreturn]] void damaged(const std::filesystem::path& file, const std::string& what) {
  fail(ErrorKind::corrupt_file, file.string() + ": " + what);
}

// tokens, then the state's tensors. The tensor of tokens looks at `tokens`.
std::vector<StateImage::Part> parts_of(std::vector<int32_t>& tokens, const StateImage& image) {
  std::vector<StateImage::Part> parts = image.parts();
  parts.insert(parts.begin(), {"tokens", contiguous(reinterpret_cast<std::byte*>(tokens.data()), DType::i32, {},
                                                    {int64_t(tokens.size())})});
  return parts;
}

Json json_of(const Sampling& s) {
  return {{"temperature", s.temperature},
          {"top_k", s.top_k},
          {"typical_p", s.typical_p},
          {"top_p", s.top_p},
          {"min_p", s.min_p},
          {"repetition_penalty", s.repetition_penalty},
          {"presence_penalty", s.presence_penalty},
          {"frequency_penalty", s.frequency_penalty},
          {"logit_bias", s.logit_bias},
          {"seed", s.seed}};
}

// A field of the file's own description; what has another type is damage.
template <class T>
T field(const Json& object, const char* key, const std::filesystem::path& file) {
  if (!object.is_object() || !object.contains(key)) damaged(file, std::string("the session's ") + key + " is missing");
  const Json& value = object.at(key);
  bool fits = false;
  if constexpr (std::is_same_v<T, std::string>) fits = value.is_string();
  else if constexpr (std::is_floating_point_v<T>) fits = value.is_number();
  else if constexpr (std::is_same_v<T, Json>) fits = value.is_object();
  else if constexpr (std::is_signed_v<T>) fits = value.is_number_integer() && value.get<int64_t>() >= 0;
  else fits = value.is_number_unsigned();
  if (!fits) damaged(file, std::string("the session's ") + key + " is " + in_quotes(value.dump(-1, ' ', true)));
  return value.get<T>();
}

void require_same(const SessionBinding& is, const Json& was, const std::filesystem::path& file) {
  const auto compare = [&](const char* what, const std::string& now, const std::string& then) {
    const auto shown = [](const std::string& text) { return text.empty() ? std::string("none") : in_quotes(text); };
    if (now != then)
      fail(ErrorKind::invalid_input,
           file.string() + ": the session was saved with " + what + " " + shown(then) + ", here it is " + shown(now));
  };
  compare("dtype", is.dtype, field<std::string>(was, "dtype", file));
  compare("model", is.model, field<std::string>(was, "model", file));
  compare("chat template", is.chat_template, field<std::string>(was, "chat_template", file));
}

std::vector<std::pair<int32_t, float>> biases_of(const Json& list, const std::filesystem::path& file) {
  std::vector<std::pair<int32_t, float>> biases;
  for (const Json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer() || !pair[1].is_number())
      damaged(file, "the session's logit_bias holds " + in_quotes(pair.dump(-1, ' ', true)));
    biases.emplace_back(pair[0].get<int32_t>(), pair[1].get<float>());
  }
  return biases;
}

SavedSession session_of(const Json& described, const std::filesystem::path& file) {
  const Json sampling = field<Json>(described, "sampling", file);
  return {.tokens = {},
          .sampling = {.temperature = field<float>(sampling, "temperature", file),
                       .top_k = field<int32_t>(sampling, "top_k", file),
                       .typical_p = field<float>(sampling, "typical_p", file),
                       .top_p = field<float>(sampling, "top_p", file),
                       .min_p = field<float>(sampling, "min_p", file),
                       .repetition_penalty = field<float>(sampling, "repetition_penalty", file),
                       .presence_penalty = field<float>(sampling, "presence_penalty", file),
                       .frequency_penalty = field<float>(sampling, "frequency_penalty", file),
                       .logit_bias = biases_of(sampling.value("logit_bias", Json::array()), file),
                       .seed = field<uint64_t>(sampling, "seed", file)},
          .choice = field<uint64_t>(described, "choice", file),
          .notes = field<std::string>(described, "notes", file)};
}

// The description, whose own digest lies beside it.
Json description_of(const Safetensors& stored) {
  const std::filesystem::path& file = stored.path();
  const Metadata& metadata = stored.metadata();
  const auto text = [&](const char* key) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) damaged(file, "no session: its metadata has no " + std::string(key));
    return found->second;
  };
  if (text("format") != kFormat)
    damaged(file, "its format is " + in_quotes(text("format")) + ", expected " + in_quotes(kFormat));
  if (digest_of(text("session")) != text("digest")) damaged(file, "the session's description is not what was saved");
  return parse_object(text("session"), file.string());
}

// Bytes of a stored tensor into their place, if they are those that were saved.
void read_part(const Safetensors& stored, const Json& digests, const StateImage::Part& part) {
  const StoredTensor& from = stored.at(part.name);
  const Tensor& to = part.tensor;
  const std::vector<int64_t> shape(to.shape.begin(), to.shape.begin() + to.rank);
  if (from.dtype != to.dtype || from.shape != shape)
    damaged(stored.path(), "tensor " + in_quotes(part.name) + " is " + from.describe() + ", which does not fit");
  if (digest_of(from.bytes) != field<std::string>(digests, part.name.c_str(), stored.path()))
    damaged(stored.path(), "tensor " + in_quotes(part.name) + " is not what was saved");
  if (!from.bytes.empty()) std::memcpy(to.data, from.bytes.data(), from.bytes.size());
}

}  // namespace

void save_session(const std::filesystem::path& file, const SessionBinding& binding, const SavedSession& session,
                  const StateImage& image) {
  std::vector<int32_t> tokens = session.tokens;
  std::vector<TensorToWrite> tensors;
  Json digests;
  for (const auto& [name, tensor] : parts_of(tokens, image)) {
    digests[name] = digest_of(bytes_of(tensor));
    tensors.push_back({name,
                       tensor.dtype,
                       {tensor.shape.begin(), tensor.shape.begin() + tensor.rank},
                       [tensor = tensor](std::byte* out) {
                         if (tensor.bytes() > 0) std::memcpy(out, tensor.data, size_t(tensor.bytes()));
                       }});
  }
  const Json described{{"model", binding.model},
                       {"chat_template", binding.chat_template},
                       {"dtype", binding.dtype},
                       {"position", image.position()},
                       {"sampling", json_of(session.sampling)},
                       {"choice", session.choice},
                       {"notes", session.notes},
                       {"digests", digests}};
  const std::string text = described.dump(-1, ' ', true);
  write_safetensors(file, tensors, {{"format", kFormat}, {"session", text}, {"digest", digest_of(text)}});
}

LoadedSession load_session(const std::filesystem::path& file, const SessionBinding& binding, const StateShape& shape) {
  const Safetensors stored = Safetensors::open(file);
  const Json described = description_of(stored);
  require_same(binding, described, file);
  const int64_t position = field<int64_t>(described, "position", file);
  const StoredTensor& tokens = stored.at("tokens");
  if (tokens.dtype != DType::i32 || tokens.shape.size() != 1 || position > tokens.count())
    damaged(file, "tensor \"tokens\" is " + tokens.describe() + ", expected I32 of at least the " +
                      std::to_string(position) + " tokens that the state covers");
  LoadedSession loaded{session_of(described, file), StateImage(shape, position)};
  loaded.session.tokens.resize(size_t(tokens.count()));
  const Json digests = field<Json>(described, "digests", file);
  for (const StateImage::Part& part : parts_of(loaded.session.tokens, loaded.image)) read_part(stored, digests, part);
  return loaded;
}

}  // namespace fulgur

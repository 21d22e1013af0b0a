#include "model/weights.h"

#include <algorithm>
#include <vector>

#include "device/stream.h"

namespace fulgur {
namespace {

// A tensor of the file and the rows of the field that it fills.
struct Part {
  std::string name;
  int64_t rows;
  RotaryRows order = {};
};

struct Field {
  Tensor tensor;
  int64_t offset = 0;  // elements from the start of the buffer
};

// Hands out the fields of one range of the flat buffer, in order, and lists the parameters in them.
class Range {
 public:
  Range(Tensor flat, std::vector<Parameter>& parameters, int64_t begin)
      : flat_(flat), parameters_(parameters), next_(begin) {}

  int64_t end() const { return next_; }

  Tensor field(ParameterKind kind, std::initializer_list<int64_t> shape, const std::vector<Part>& parts) {
    const auto [t, offset] = take(shape);
    int64_t row = 0;
    for (const Part& part : parts) {
      parameters_.push_back({part.name, t.rows(row, row + part.rows), kind, offset + row * t.stride[0], part.order});
      row += part.rows;
    }
    return t;
  }

  Weight matrix(ParameterKind kind, const std::string& name, int64_t out, int64_t in) {
    return {.values = field(kind, {out, in}, {{name, out}})};
  }

  Tensor norm(const std::string& name, int64_t width) { return field(ParameterKind::norm, {width}, {{name, width}}); }

  // Room for a field whose parameters are listed by themselves.
  Field take(std::initializer_list<int64_t> shape) {
    std::byte* const data = flat_.data ? flat_.data + next_ * byte_size(flat_.dtype) : nullptr;
    const Field field{contiguous(data, flat_.dtype, flat_.device, shape), next_};
    next_ = (next_ + field.tensor.count() + kParameterAlign - 1) / kParameterAlign * kParameterAlign;
    return field;
  }

  // Rows [begin, end) of every expert's matrix; name_of(expert) is that of its tensor.
  template <class NameOf>
  void list_experts(ParameterKind kind, const Field& field, int64_t begin, int64_t end, const NameOf& name_of) {
    const Tensor& t = field.tensor;
    for (int64_t e = 0; e < t.dim(0); ++e)
      parameters_.push_back(
          {name_of(e), t.at(e).rows(begin, end), kind, field.offset + e * t.stride[0] + begin * t.stride[1]});
  }

 private:
  Tensor flat_;
  std::vector<Parameter>& parameters_;
  int64_t next_;
};

LightningWeights lightning(Range& range, const std::string& self, const ModelConfig& c) {
  using enum ParameterKind;
  const int64_t inner = c.heads * c.head_dim;
  LightningWeights w;
  w.in.values = range.field(matrix, {4 * inner, c.width},
                            {{self + "qkv_proj.weight", 3 * inner}, {self + "output_gate.weight", inner}});
  w.qkv.values = w.in.values.rows(0, 3 * inner), w.gate.values = w.in.values.rows(3 * inner, 4 * inner);
  w.norm = range.norm(self + "norm.weight", inner);
  w.out = range.matrix(matrix, self + "out_proj.weight", c.width, inner);
  return w;
}

SoftmaxWeights softmax(Range& range, const std::string& self, const ModelConfig& c) {
  using enum ParameterKind;
  const int64_t inner = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const RotaryRows order = rotary_rows(c);
  SoftmaxWeights w;
  w.qkv.values = range.field(
      matrix, {inner + 2 * kv, c.width},
      {{self + "q_proj.weight", inner, order}, {self + "k_proj.weight", kv, order}, {self + "v_proj.weight", kv}});
  w.out = range.matrix(matrix, self + "o_proj.weight", c.width, inner);
  return w;
}

// Where matrices of experts lie: in the flat buffer behind all else, or quantised in two of their own.
class ExpertRange {
 public:
  ExpertRange(const ModelConfig& c, ModelWeights& w)
      : count_(c.experts),
        quantised_(c.int8_experts),
        values_(quantised_ ? w.quantised.values : w.flat, w.parameters, quantised_ ? 0 : w.experts_begin),
        scales_(w.quantised.scales, w.parameters, 0) {}

  // Of every expert matrices of `out` rows, one below the other, each by its name.
  Weight matrices(const std::string& layer, std::initializer_list<const char*> names, int64_t out, int64_t in) {
    const int64_t rows = int64_t(names.size()) * out;
    const Field values = values_.take({count_, rows, in});
    const Field scales = quantised_ ? scales_.take({count_, rows, scale_count(in)}) : Field{};
    int64_t row = 0;
    for (const char* name : names) {
      const auto named = [&](const char* end) {
        return [&layer, name, end](int64_t expert) {
          return layer + "block_sparse_moe.experts." + std::to_string(expert) + "." + name + end;
        };
      };
      values_.list_experts(ParameterKind::matrix, values, row, row + out, named(".weight"));
      if (quantised_) scales_.list_experts(ParameterKind::scale, scales, row, row + out, named(".weight_scale"));
      row += out;
    }
    return {.values = values.tensor, .scales = scales.tensor};
  }
  int64_t end() const { return values_.end(); }
  int64_t scales_end() const { return scales_.end(); }

 private:
  int64_t count_;
  bool quantised_;
  Range values_, scales_;
};

// Rows [begin, end) of every expert's matrix.
Weight rows_of(const Weight& w, int64_t begin, int64_t end) {
  return {.values = w.values.slice(1, begin, end), .scales = w.scales ? w.scales.slice(1, begin, end) : Tensor{}};
}

struct Ends {
  int64_t replicated, experts, scales;
};

Ends carve(const ModelConfig& c, ModelWeights& w) {
  using enum ParameterKind;
  Range all(w.flat, w.parameters, 0);
  ExpertRange experts(c, w);
  w.embedding = all.matrix(embedding, "model.embed_tokens.weight", c.vocab_size, c.width);
  w.layers.reserve(c.attention.size());
  for (const AttentionKind attention : c.attention) {
    const std::string name = "model.layers." + std::to_string(w.layers.size()) + ".";
    LayerWeights& l = w.layers.emplace_back();
    l.attention_norm = all.norm(name + "input_layernorm.weight", c.width);
    if (attention == AttentionKind::lightning) l.attention = lightning(all, name + "self_attn.", c);
    else l.attention = softmax(all, name + "self_attn.", c);
    l.moe_norm = all.norm(name + "post_attention_layernorm.weight", c.width);
    l.moe.router = all.matrix(router, name + "block_sparse_moe.gate.weight", c.experts, c.width).values;
    l.moe.gate_up = experts.matrices(name, {"w1", "w3"}, c.expert_width, c.width);
    l.moe.gate = rows_of(l.moe.gate_up, 0, c.expert_width);
    l.moe.up = rows_of(l.moe.gate_up, c.expert_width, 2 * c.expert_width);
    l.moe.down = experts.matrices(name, {"w2"}, c.width, c.expert_width);
  }
  w.final_norm = all.norm("model.norm.weight", c.width);
  w.head = c.tied_head ? w.embedding : all.matrix(head, "lm_head.weight", c.vocab_size, c.width);
  return {all.end(), experts.end(), experts.scales_end()};
}

Ends measured(const ModelConfig& c) {
  ModelWeights nothing;
  return carve(c, nothing);
}

// Of a model without memory, in i8 and f32 all the same.
QuantisedExperts shapes_of(const ModelConfig& c, DeviceId device) {
  const auto [values, scales] = quantised_elements(c);
  return {contiguous(nullptr, DType::i8, device, {values}), contiguous(nullptr, DType::f32, device, {scales})};
}

bool is_decayed(ParameterKind kind) { return kind == ParameterKind::matrix || kind == ParameterKind::head; }

}  // namespace

int64_t flat_elements(const ModelConfig& c) {
  const Ends ends = measured(c);
  return c.int8_experts ? ends.replicated : ends.replicated + ends.experts;
}

QuantisedElements quantised_elements(const ModelConfig& c) {
  if (!c.int8_experts) return {0, 0};
  const Ends ends = measured(c);
  return {ends.experts, ends.scales};
}

ModelWeights views_of(const ModelConfig& c, Tensor flat, QuantisedExperts quantised) {
  ModelWeights w;
  w.flat = flat;
  w.experts_begin = measured(c).replicated;
  if (c.int8_experts) {
    expect(!flat.data || quantised.values, "int8 experts have memory of their own");
    w.quantised = quantised.values ? quantised : shapes_of(c, flat.device);
  }
  const Ends ends = carve(c, w);
  if (c.int8_experts)
    expect(ends.experts <= w.quantised.values.dim(0) && ends.scales <= w.quantised.scales.dim(0),
           "the buffers of int8 experts hold every field");
  expect((c.int8_experts ? ends.replicated : ends.experts) <= flat.dim(0), "the flat buffer holds every field");
  return w;
}

void fill_decays(const ModelConfig& c, ModelWeights& w, Tensor storage) {
  expect(storage.is(wide(w.flat.dtype), {c.layers, c.heads}), "decays are wide, one for each layer and head");
  std::vector<std::byte> slopes(size_t(storage.bytes()));
  Tensor host = storage;
  host.data = slopes.data(), host.device = {};
  for (int64_t l = 0; l < c.layers; ++l) {
    auto* lightning_layer = std::get_if<LightningWeights>(&w.layers[size_t(l)].attention);
    if (!lightning_layer) continue;
    lightning_layer->decay = storage.at(l);
    for (int64_t h = 0; h < c.heads; ++h) {
      if (storage.dtype == DType::f64) host.view<double, 2>()(l, h) = decay_of(c, l, h);
      else host.view<float, 2>()(l, h) = float(decay_of(c, l, h));
    }
  }
  if (!storage.data) return;
  Stream stream(storage.device);
  copy(stream, storage, host);
  stream.synchronize();
}

std::vector<std::pair<int64_t, int64_t>> not_decayed_ranges(const ModelWeights& w) {
  std::vector<const Parameter*> by_offset;
  for (const Parameter& p : w.parameters) by_offset.push_back(&p);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const Parameter* a, const Parameter* b) { return a->offset < b->offset; });
  std::vector<std::pair<int64_t, int64_t>> ranges;
  bool open = false;
  for (const Parameter* p : by_offset) {
    const bool left_alone = !is_decayed(p->kind);
    const int64_t end = p->offset + p->view.count();
    if (left_alone && open) ranges.back().second = end;
    else if (left_alone) ranges.emplace_back(p->offset, end);
    open = left_alone;
  }
  return ranges;
}

ParameterCount parameter_count(const ModelConfig& c) {
  ModelWeights w;
  carve(c, w);
  ParameterCount count;
  for (const Parameter& p : w.parameters)
    if (p.kind != ParameterKind::scale) count.total += p.view.count();
  count.active = count.total - c.layers * (c.experts - c.experts_per_token) * 3 * c.width * c.expert_width;
  return count;
}

}  // namespace fulgur

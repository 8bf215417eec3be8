#include "tensorrt/options.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "core/params.hpp"

namespace afdet {

const Attribute kAttributeTable[kAttributes] = {
    {"height", false, false},         {"width", false, false},
    {"strides", false, true},         {"regression_scale", true, false},
    {"score_threshold", true, false}, {"candidates_per_level", false, false},
    {"nms_iou", true, false},         {"class_agnostic", false, false},
    {"max_detections", false, false},
};

namespace {

constexpr uint8_t kMagic[4] = {'A', 'F', 'D', 'N'};
constexpr uint32_t kFormat = 1;
constexpr uint32_t kLongestName = 64;

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return text;
}

std::string complain(const std::string& what, const std::string& got, const std::string& hint) {
  return what + " (got " + got + ") - " + hint;
}

std::string damaged(const std::string& got) {
  return complain("the engine's plugin data are damaged", got, "build it again");
}

bool is_number(FieldType type) { return type != FieldType::kOther; }

double value_at(const Field& field, int32_t index) {
  // memcpy, because the bytes of an attribute may be unaligned.
  const char* place = static_cast<const char*>(field.data);
  const size_t i = static_cast<size_t>(index);
  switch (field.type) {
    case FieldType::kInt32: {
      int32_t value;
      std::memcpy(&value, place + i * sizeof value, sizeof value);
      return value;
    }
    case FieldType::kInt64: {
      int64_t value;
      std::memcpy(&value, place + i * sizeof value, sizeof value);
      return static_cast<double>(value);
    }
    case FieldType::kFloat32: {
      float value;
      std::memcpy(&value, place + i * sizeof value, sizeof value);
      return static_cast<double>(value);
    }
    default: {
      double value;
      std::memcpy(&value, place + i * sizeof value, sizeof value);
      return value;
    }
  }
}

bool is_whole(double value) {
  return value == std::floor(value) && std::fabs(value) <= std::numeric_limits<int32_t>::max();
}

// Stores an attribute's value in the options.
void assign(const std::string& name, const std::vector<double>& values, Options* options) {
  const double value = values[0];
  if (name == "height") options->height = static_cast<int32_t>(value);
  if (name == "width") options->width = static_cast<int32_t>(value);
  if (name == "regression_scale") options->regression_scale = static_cast<float>(value);
  if (name == "score_threshold") options->score_threshold = static_cast<float>(value);
  if (name == "candidates_per_level") options->candidates_per_level = static_cast<int32_t>(value);
  if (name == "nms_iou") options->nms_iou = static_cast<float>(value);
  if (name == "class_agnostic") options->class_agnostic = static_cast<int32_t>(value);
  if (name == "max_detections") options->max_detections = static_cast<int32_t>(value);
  if (name == "strides") {
    options->strides.clear();
    for (const double stride : values) options->strides.push_back(static_cast<int32_t>(stride));
  }
}

std::string names() {
  std::string text;
  for (const Attribute& attribute : kAttributeTable) {
    text += (text.empty() ? "" : ", ") + std::string(attribute.name);
  }
  return text;
}

// Reads one attribute; `which` becomes its index in the table, or -1.
std::string read_field(const Field& field, int32_t* which, Options* options) {
  *which = -1;
  if (field.name == nullptr) return "an attribute has no name";
  const std::string name = field.name;
  if (name == "plugin_version" || name == "plugin_namespace") return "";
  for (int32_t i = 0; i < kAttributes; ++i) {
    if (name == kAttributeTable[i].name) *which = i;
  }
  if (*which < 0) {
    return complain("there is no such attribute", name, "there are " + names());
  }
  const Attribute& attribute = kAttributeTable[*which];
  const std::string wanted = "attribute " + name + " must be " +
                             (attribute.is_list    ? "a list of whole numbers"
                              : attribute.is_float ? "a number"
                                                   : "a whole number");
  if (!is_number(field.type)) {
    return complain(wanted, "another type", attribute.is_float ? "such as 0.5" : "such as 8");
  }
  const int32_t most = attribute.is_list ? AFDET_MAX_LEVELS : 1;
  if (field.data == nullptr || field.length < 1 || field.length > most) {
    return complain(wanted, std::to_string(field.length) + " values",
                    attribute.is_list ? "give 1 to " + std::to_string(most) : "give one");
  }
  std::vector<double> values;
  for (int32_t i = 0; i < field.length; ++i) {
    const double value = value_at(field, i);
    if (!attribute.is_float && !is_whole(value)) {
      return complain(wanted, text_of(value), "it is kept in 32 bits");
    }
    values.push_back(value);
  }
  assign(name, values, options);
  return "";
}

std::string text_of(const std::vector<int32_t>& values) {
  std::string text;
  for (const int32_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return text;
}

std::string check_probability(const char* name, float value) {
  if (value >= 0.0f && value <= 1.0f) return "";
  return complain(std::string("attribute ") + name + " must be within 0..1",
                  text_of(static_cast<double>(value)), "such as 0.5");
}

std::string check_limit(const char* name, int32_t value) {
  if (value >= 1 && value <= kMaxLimit) return "";
  return complain(
      std::string("attribute ") + name + " must be within 1.." + std::to_string(kMaxLimit),
      std::to_string(value), "such as 100");
}

// Runs the kernels' check and returns its result as a message.
std::string check_values(const Options& options) {
  for (const std::string& error :
       {check_probability("score_threshold", options.score_threshold),
        check_probability("nms_iou", options.nms_iou),
        check_limit("candidates_per_level", options.candidates_per_level),
        check_limit("max_detections", options.max_detections)}) {
    if (!error.empty()) return error;
  }
  if (options.class_agnostic != 0 && options.class_agnostic != 1) {
    return complain("attribute class_agnostic must be 0 or 1",
                    std::to_string(options.class_agnostic),
                    "1 lets a box suppress those of other classes");
  }
  DecodeParams decode;
  const AfdetParams params = options.params(1);
  switch (make_decode_params(&params, &decode)) {
    case AFDET_OK:
      return "";
    case AFDET_ERROR_LEVELS:
      return complain("attribute strides must be ascending powers of two", text_of(options.strides),
                      "such as 8, 16, 32, 64, 128");
    case AFDET_ERROR_THRESHOLDS:
      return complain("attribute regression_scale must be above 0 and finite",
                      text_of(static_cast<double>(options.regression_scale)), "such as 4");
    default:
      return complain("attributes height and width must be multiples of every stride",
                      std::to_string(options.height) + " x " + std::to_string(options.width) +
                          " and strides " + text_of(options.strides),
                      "such as 512 x 512");
  }
}

}  // namespace

AfdetParams Options::params(int32_t num_classes) const {
  AfdetParams result{};
  result.struct_size = sizeof result;
  result.num_levels = static_cast<int32_t>(strides.size());
  result.num_classes = num_classes;
  result.height = height;
  result.width = width;
  for (size_t i = 0; i < strides.size() && i < AFDET_MAX_LEVELS; ++i)
    result.strides[i] = strides[i];
  result.candidates_per_level = candidates_per_level;
  result.max_detections = max_detections;
  result.class_agnostic = class_agnostic;
  result.regression_scale = regression_scale;
  result.score_threshold = score_threshold;
  result.nms_iou = nms_iou;
  return result;
}

std::vector<Field> fields_of(const Options& options) {
  const int32_t levels = static_cast<int32_t>(options.strides.size());
  return {
      {"height", FieldType::kInt32, 1, &options.height},
      {"width", FieldType::kInt32, 1, &options.width},
      {"strides", FieldType::kInt32, levels, options.strides.data()},
      {"regression_scale", FieldType::kFloat32, 1, &options.regression_scale},
      {"score_threshold", FieldType::kFloat32, 1, &options.score_threshold},
      {"candidates_per_level", FieldType::kInt32, 1, &options.candidates_per_level},
      {"nms_iou", FieldType::kFloat32, 1, &options.nms_iou},
      {"class_agnostic", FieldType::kInt32, 1, &options.class_agnostic},
      {"max_detections", FieldType::kInt32, 1, &options.max_detections},
  };
}

std::string read_options(const Field* fields, int32_t count, Options* options) {
  bool seen[kAttributes] = {};
  Options result;
  for (int32_t i = 0; i < count; ++i) {
    int32_t which;
    const std::string error = read_field(fields[i], &which, &result);
    if (!error.empty()) return error;
    if (which >= 0) seen[which] = true;
  }
  for (int32_t i = 0; i < kAttributes; ++i) {
    if (!seen[i]) {
      return complain(std::string("attribute ") + kAttributeTable[i].name + " is missing",
                      std::to_string(count) + " attributes", "make the node with trt-afdet");
    }
  }
  const std::string error = check_values(result);
  if (error.empty()) *options = result;
  return error;
}

std::string check_heads(const Options& options, const Shape* inputs, int32_t count,
                        int64_t* num_classes) {
  if (count != options.inputs()) {
    return complain("the op takes a cls and a reg input per stride",
                    std::to_string(count) + " inputs and " +
                        std::to_string(options.strides.size()) + " strides",
                    "order them cls p3, cls p4, ..., reg p3, reg p4, ...");
  }
  const int32_t levels = count / 2;
  int64_t classes = -1;
  int64_t batch = -1;
  for (int32_t i = 0; i < count; ++i) {
    const Shape& shape = inputs[i];
    const int32_t stride = options.strides[static_cast<size_t>(i % levels)];
    const std::string name = "the " + std::string(i < levels ? "cls" : "reg") +
                             " input of stride " + std::to_string(stride);
    if (shape.rank != 4) {
      return complain(name + " must have 4 dimensions", std::to_string(shape.rank),
                      "[N, classes or 4, rows, columns]");
    }
    const int64_t want[4] = {batch, i < levels ? classes : 4, options.height / stride,
                             options.width / stride};
    const char* const axes[4] = {"the first input's batch", "channels", "rows", "columns"};
    for (int32_t d = 0; d < 4; ++d) {
      if (shape.sizes[d] >= 0 && want[d] >= 0 && shape.sizes[d] != want[d]) {
        return complain(name + " must have " + std::to_string(want[d]) + " as " + axes[d],
                        std::to_string(shape.sizes[d]),
                        "attributes height and width are " + std::to_string(options.height) +
                            " and " + std::to_string(options.width));
      }
    }
    if (batch < 0) batch = shape.sizes[0];
    if (i < levels && classes < 0) classes = shape.sizes[1];
  }
  *num_classes = classes;
  if (classes == 0) return complain("there must be classes", "0", "see the cls heads");
  return "";
}

std::vector<uint8_t> to_bytes(const Options& options) {
  std::vector<uint8_t> bytes(kMagic, kMagic + sizeof kMagic);
  const auto append = [&bytes](const void* data, size_t size) {
    const uint8_t* first = static_cast<const uint8_t*>(data);
    bytes.insert(bytes.end(), first, first + size);
  };
  const auto append_number = [&append](uint32_t number) { append(&number, sizeof number); };
  const std::vector<Field> fields = fields_of(options);
  append_number(kFormat);
  append_number(static_cast<uint32_t>(fields.size()));
  for (const Field& field : fields) {
    const size_t length = std::strlen(field.name);
    append_number(static_cast<uint32_t>(length));
    append(field.name, length);
    append_number(field.type == FieldType::kFloat32 ? 1 : 0);
    append_number(static_cast<uint32_t>(field.length));
    append(field.data, 4 * static_cast<size_t>(field.length));
  }
  return bytes;
}

std::string from_bytes(const void* data, size_t size, Options* options) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  size_t place = 0;
  const auto take = [&](void* target, size_t wanted) {
    if (size - place < wanted) return false;
    std::memcpy(target, bytes + place, wanted);
    place += wanted;
    return true;
  };
  const std::string truncated = complain("the engine's plugin data are cut off",
                                         std::to_string(size) + " bytes", "build it again");
  uint8_t magic[sizeof kMagic];
  uint32_t format;
  uint32_t count;
  if (data == nullptr || !take(magic, sizeof magic)) return truncated;
  if (std::memcmp(magic, kMagic, sizeof magic) != 0) {
    return complain("the engine's plugin data are not this plugin's", "another magic number",
                    "build it again");
  }
  if (!take(&format, sizeof format) || !take(&count, sizeof count)) return truncated;
  if (format != kFormat) {
    return complain("the engine was built with another version of the plugin",
                    "format " + std::to_string(format), "build it again, or update trt-afdet");
  }
  if (count > kAttributes) return damaged(std::to_string(count) + " fields");
  // Names and values must outlive the fields, which point to them.
  std::vector<std::string> names_read(count);
  std::vector<std::vector<uint8_t>> values(count);
  std::vector<Field> fields;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t length;
    uint32_t is_float;
    uint32_t numbers;
    if (!take(&length, sizeof length)) return truncated;
    if (length > kLongestName) return damaged("a name of " + std::to_string(length) + " bytes");
    names_read[i].resize(length);
    if (length > 0 && !take(&names_read[i][0], length)) return truncated;
    if (!take(&is_float, sizeof is_float) || !take(&numbers, sizeof numbers)) return truncated;
    if (is_float > 1) return damaged("type " + std::to_string(is_float));
    if (numbers < 1 || numbers > AFDET_MAX_LEVELS) {
      return damaged(std::to_string(numbers) + " values");
    }
    values[i].resize(4 * numbers);
    if (!take(values[i].data(), values[i].size())) return truncated;
    fields.push_back({names_read[i].c_str(),
                      is_float == 1 ? FieldType::kFloat32 : FieldType::kInt32,
                      static_cast<int32_t>(numbers), values[i].data()});
  }
  if (place != size) return damaged(std::to_string(size - place) + " bytes too many");
  return read_options(fields.data(), static_cast<int32_t>(fields.size()), options);
}

}  // namespace afdet

// The op's attributes: their table, checks and serialisation. Independent of TensorRT, so it is the
// same for every version and can be tested without TensorRT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "afdet/types.h"

namespace afdet {

constexpr const char* kOpName = "AfdetDecodeNMS";
constexpr const char* kOpVersion = "1";
constexpr int32_t kOutputs = 4;

enum class FieldType { kInt32, kInt64, kFloat32, kFloat64, kOther };

// An attribute from an ONNX node, from Python or from an engine.
struct Field {
  const char* name;
  FieldType type;
  int32_t length;
  const void* data;
};

// The options of the op. The inputs determine the number of classes.
struct Options {
  int32_t height = 0;
  int32_t width = 0;
  std::vector<int32_t> strides;
  float regression_scale = 0.0f;
  float score_threshold = 0.0f;
  int32_t candidates_per_level = 0;
  float nms_iou = 0.0f;
  int32_t class_agnostic = 0;
  int32_t max_detections = 0;

  int32_t inputs() const { return 2 * static_cast<int32_t>(strides.size()); }

  // The options as parameters of the kernels.
  AfdetParams params(int32_t num_classes) const;
};

// One attribute in the table.
struct Attribute {
  const char* name;
  bool is_float;
  bool is_list;
};

constexpr int32_t kAttributes = 9;
extern const Attribute kAttributeTable[kAttributes];

// Addresses of the options' values, in the order of the table.
std::vector<Field> fields_of(const Options& options);

// Reads and checks all attributes. Returns an empty text, or one line with the error: what, got,
// hint. Refuses unknown attributes, except plugin_version and plugin_namespace, which belong to
// the parsers.
std::string read_options(const Field* fields, int32_t count, Options* options);

// A tensor's shape; unknown dimensions are negative.
struct Shape {
  int32_t rank;
  int64_t sizes[8];
};

// Checks the known dimensions of the heads against the options, and determines the number of
// classes (-1: unknown). Returns an empty text or the error.
std::string check_heads(const Options& options, const Shape* inputs, int32_t count,
                        int64_t* num_classes);

// The options as bytes: magic, version, number of fields; for each its name, type, length, values.
std::vector<uint8_t> to_bytes(const Options& options);

// Reads such bytes. Returns an empty text or the error; never reads beyond `size`.
std::string from_bytes(const void* data, size_t size, Options* options);

}  // namespace afdet

#include "tensorrt/glue.hpp"

#include <algorithm>
#include <cstdio>
#include <limits>

namespace afdet {
namespace {

// Set while the library loads, so they must not have constructors.
LoggerSource logger_source = nullptr;
void* logger_context = nullptr;

}  // namespace

void set_logger_source(LoggerSource source, void* context) {
  logger_source = source;
  logger_context = context;
}

void report(const char* text) noexcept {
  // Does not allocate, because the error may be a lack of memory.
  char line[1024];
  std::snprintf(line, sizeof line, "%s: %s", kOpName, text);
  nvinfer1::ILogger* const logger =
      logger_source != nullptr ? logger_source(logger_context) : nullptr;
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, line);
  } else {
    std::fprintf(stderr, "%s\n", line);
  }
}

Field to_field(const nvinfer1::PluginField& field) {
  using nvinfer1::PluginFieldType;
  FieldType type = FieldType::kOther;
  if (field.type == PluginFieldType::kINT32) type = FieldType::kInt32;
  if (field.type == PluginFieldType::kFLOAT32) type = FieldType::kFloat32;
  if (field.type == PluginFieldType::kFLOAT64) type = FieldType::kFloat64;
#if AFDET_PLUGIN_V3
  if (field.type == PluginFieldType::kINT64) type = FieldType::kInt64;
#endif
  return {field.name, type, field.length, field.data};
}

std::vector<Field> to_fields(const nvinfer1::PluginFieldCollection* collection) {
  std::vector<Field> fields;
  if (collection == nullptr || collection->fields == nullptr) return fields;
  for (int32_t i = 0; i < collection->nbFields; ++i) {
    fields.push_back(to_field(collection->fields[i]));
  }
  return fields;
}

nvinfer1::PluginField to_plugin_field(const Field& field) {
  const auto type = field.type == FieldType::kFloat32 ? nvinfer1::PluginFieldType::kFLOAT32
                                                      : nvinfer1::PluginFieldType::kINT32;
  return nvinfer1::PluginField(field.name, field.data, type, field.length);
}

Shape to_shape(const nvinfer1::Dims& dims) {
  Shape shape{dims.nbDims, {}};
  for (int32_t i = 0; i < dims.nbDims && i < 8; ++i) shape.sizes[i] = dims.d[i];
  return shape;
}

Shape to_shape(const nvinfer1::DimsExprs& dims) {
  Shape shape{dims.nbDims, {}};
  for (int32_t i = 0; i < dims.nbDims && i < 8; ++i) {
    shape.sizes[i] = dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : -1;
  }
  return shape;
}

const nvinfer1::PluginFieldCollection* offered_fields() {
  static const std::vector<nvinfer1::PluginField> fields = [] {
    std::vector<nvinfer1::PluginField> result;
    for (const Attribute& attribute : kAttributeTable) {
      const auto type = attribute.is_float ? nvinfer1::PluginFieldType::kFLOAT32
                                           : nvinfer1::PluginFieldType::kINT32;
      result.emplace_back(attribute.name, nullptr, type, 1);
    }
    return result;
  }();
  static const nvinfer1::PluginFieldCollection collection = [] {
    nvinfer1::PluginFieldCollection result{};
    result.nbFields = static_cast<int32_t>(fields.size());
    result.fields = fields.data();
    return result;
  }();
  return &collection;
}

nvinfer1::DimsExprs output_shape(const Options& options, int32_t output,
                                 const nvinfer1::DimsExprs& first_input,
                                 nvinfer1::IExprBuilder& builder) {
  nvinfer1::DimsExprs shape{};
  shape.nbDims = output == 1 ? 3 : 2;
  shape.d[0] = first_input.d[0];
  shape.d[1] = builder.constant(output == 0 ? 1 : options.max_detections);
  if (output == 1) shape.d[2] = builder.constant(4);
  return shape;
}

namespace {

// TensorRT does not document the alignment of a workspace; the kernels need this alignment.
constexpr size_t kAlignment = 256;

int32_t element_type(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kHALF ? AFDET_FLOAT16 : AFDET_FLOAT32;
}

int32_t saturate(int64_t value) {
  return static_cast<int32_t>(
      std::min(value, static_cast<int64_t>(std::numeric_limits<int32_t>::max())));
}

void report_refusal(AfdetStatus status, int64_t num_classes, int64_t batch) {
  switch (status) {
    case AFDET_ERROR_CLASSES:
      return report("a level has too many (point, class) pairs (got " +
                    std::to_string(num_classes) + " classes) - use fewer, or a smaller input");
    case AFDET_ERROR_BATCH:
      return report("the batch must be within 1..65535 (got " + std::to_string(batch) +
                    ") - change the optimization profile");
    default:
      return report(status >= AFDET_ERROR_CUDA
                        ? "a kernel could not be queued (got CUDA error " +
                              std::to_string(status - AFDET_ERROR_CUDA) +
                              ") - is the plugin built for this GPU?"
                        : "the kernels refuse (got status " + std::to_string(status) +
                              ") - see afdet/types.h");
  }
}

AfdetStatus size_workspace(const Options& options, int64_t num_classes, int32_t dtype,
                           int64_t batch, size_t* bytes) {
  const AfdetParams params = options.params(saturate(num_classes));
  return afdet_cuda_detect_workspace(&params, dtype, saturate(batch), bytes);
}

}  // namespace

bool fits(const Options& options, const std::vector<Shape>& heads, int64_t batch) {
  int64_t classes;
  const std::string error =
      check_heads(options, heads.data(), static_cast<int32_t>(heads.size()), &classes);
  if (!error.empty()) {
    report(error);
    return false;
  }
  if (classes < 0) {
    if (batch < 0) return true;
    report(
        "the number of classes must be known (got a dynamic one) - export the model with fixed "
        "channels of its cls heads");
    return false;
  }
  // An empty batch does not need a kernel.
  const int64_t largest = batch < 1 ? 1 : batch;
  size_t bytes;
  const AfdetStatus status = size_workspace(options, classes, AFDET_FLOAT32, largest, &bytes);
  if (status != AFDET_OK) report_refusal(status, classes, largest);
  return status == AFDET_OK;
}

size_t workspace_bytes(const Options& options, int64_t num_classes, nvinfer1::DataType type,
                       int64_t batch) {
  size_t bytes = 0;
  const AfdetStatus status =
      size_workspace(options, num_classes, element_type(type), batch, &bytes);
  if (status == AFDET_OK) return bytes + kAlignment;
  report_refusal(status, num_classes, batch);
  return 0;
}

int32_t enqueue(const Options& options, const nvinfer1::PluginTensorDesc* inputs,
                const void* const* heads, void* const* outputs, void* workspace,
                cudaStream_t stream) {
  const nvinfer1::Dims& first = inputs[0].dims;
  if (first.d[0] == 0) return 0;
  const int32_t batch = saturate(first.d[0]);
  const int32_t dtype = element_type(inputs[0].type);
  size_t bytes = 0;
  AfdetStatus status = size_workspace(options, first.d[1], dtype, batch, &bytes);
  if (status == AFDET_OK) {
    const AfdetParams params = options.params(saturate(first.d[1]));
    const AfdetDetections detections = {
        static_cast<int32_t*>(outputs[0]), static_cast<float*>(outputs[1]),
        static_cast<float*>(outputs[2]), static_cast<int32_t*>(outputs[3])};
    const uintptr_t start = reinterpret_cast<uintptr_t>(workspace);
    void* const aligned =
        reinterpret_cast<void*>((start + kAlignment - 1) / kAlignment * kAlignment);
    status = afdet_cuda_detect(&params, heads, dtype, batch, &detections, aligned, bytes, stream);
  }
  if (status == AFDET_OK) return 0;
  report_refusal(status, first.d[1], batch);
  return -1;
}

}  // namespace afdet

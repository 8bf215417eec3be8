#include "tensorrt/glue.hpp"

#include <cstdio>
#include <utility>

namespace afdet {
namespace {

std::function<nvinfer1::ILogger*()> find_logger;

}  // namespace

void set_logger_source(std::function<nvinfer1::ILogger*()> source) {
  find_logger = std::move(source);
}

void report(const std::string& text) {
  const std::string line = std::string(kOpName) + ": " + text;
  nvinfer1::ILogger* const target = find_logger ? find_logger() : nullptr;
  if (target != nullptr) {
    target->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

Field to_field(const nvinfer1::PluginField& field) {
  using nvinfer1::PluginFieldType;
  FieldType type = FieldType::kOther;
  if (field.type == PluginFieldType::kINT32) type = FieldType::kInt32;
  if (field.type == PluginFieldType::kFLOAT32) type = FieldType::kFloat32;
  if (field.type == PluginFieldType::kFLOAT64) type = FieldType::kFloat64;
#if NV_TENSORRT_MAJOR >= 10
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

int32_t element_type(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kHALF ? AFDET_FLOAT16 : AFDET_FLOAT32;
}

}  // namespace

size_t workspace_bytes(const Options& options, int32_t num_classes, nvinfer1::DataType type,
                       int32_t batch) {
  size_t bytes = 0;
  const AfdetParams params = options.params(num_classes);
  const AfdetStatus status =
      afdet_cuda_detect_workspace(&params, element_type(type), batch, &bytes);
  if (status != AFDET_OK) {
    report("these attributes are beyond the kernels (status " + std::to_string(status) +
           ") - use at most 4096 candidates_per_level");
    return 0;
  }
  return bytes;
}

int32_t enqueue(const Options& options, const nvinfer1::PluginTensorDesc* inputs,
                const void* const* heads, void* const* outputs, void* workspace,
                cudaStream_t stream) {
  const nvinfer1::Dims& first = inputs[0].dims;
  const int32_t batch = static_cast<int32_t>(first.d[0]);
  if (batch == 0) return 0;
  const AfdetParams params = options.params(static_cast<int32_t>(first.d[1]));
  const int32_t dtype = element_type(inputs[0].type);
  size_t bytes = 0;
  AfdetStatus status = afdet_cuda_detect_workspace(&params, dtype, batch, &bytes);
  if (status == AFDET_OK) {
    const AfdetDetections detections = {
        static_cast<int32_t*>(outputs[0]), static_cast<float*>(outputs[1]),
        static_cast<float*>(outputs[2]), static_cast<int32_t*>(outputs[3])};
    status = afdet_cuda_detect(&params, heads, dtype, batch, &detections, workspace, bytes, stream);
  }
  if (status == AFDET_OK) return 0;
  report(status >= AFDET_ERROR_CUDA ? "a kernel could not be queued (CUDA error " +
                                          std::to_string(status - AFDET_ERROR_CUDA) + ")"
                                    : "the kernels refuse (status " + std::to_string(status) + ")");
  return -1;
}

}  // namespace afdet

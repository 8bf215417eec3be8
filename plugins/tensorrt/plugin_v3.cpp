// The op for TensorRT 10 and newer, and TensorRT-RTX: IPluginV3.
#include "tensorrt/glue.hpp"

#if AFDET_PLUGIN_V3

namespace afdet {
namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

class DecodeNms final : public nvinfer1::IPluginV3,
                        public nvinfer1::IPluginV3OneCore,
                        public nvinfer1::IPluginV3OneBuild,
                        public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit DecodeNms(const Options& options) : options_(options) {}

  // IPluginV3

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  nvinfer1::IPluginV3* clone() noexcept override {
    return guarded<nvinfer1::IPluginV3*>(nullptr, [this] { return new DecodeNms(options_); });
  }

  // IPluginV3OneCore

  const char* getPluginName() const noexcept override { return kOpName; }
  const char* getPluginVersion() const noexcept override { return kOpVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }

  // IPluginV3OneBuild

  int32_t getNbOutputs() const noexcept override { return kOutputs; }

  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType*,
                             int32_t) const noexcept override {
    for (int32_t i = 0; i < outputs; ++i) types[i] = output_type(i);
    return 0;
  }

  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t count,
                          const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                          int32_t outputs_count,
                          nvinfer1::IExprBuilder& builder) noexcept override {
    return guarded<int32_t>(-1, [&] {
      std::vector<Shape> heads;
      for (int32_t i = 0; i < count; ++i) heads.push_back(to_shape(inputs[i]));
      if (!fits(options_, heads, -1)) return -1;
      for (int32_t i = 0; i < outputs_count; ++i) {
        outputs[i] = output_shape(options_, i, inputs[0], builder);
      }
      return 0;
    });
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                 int32_t inputs, int32_t) noexcept override {
    return supports(position, inputs,
                    [tensors](int32_t i) -> const PluginTensorDesc& { return tensors[i].desc; });
  }

  int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t count,
                          const DynamicPluginTensorDesc*, int32_t) noexcept override {
    return guarded<int32_t>(-1, [&] {
      std::vector<Shape> heads;
      for (int32_t i = 0; i < count; ++i) heads.push_back(to_shape(inputs[i].desc.dims));
      return fits(options_, heads, inputs[0].max.d[0]) ? 0 : -1;
    });
  }

  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t,
                          const DynamicPluginTensorDesc*, int32_t) const noexcept override {
    return guarded<size_t>(0, [&] {
      return workspace_bytes(options_, inputs[0].max.d[1], inputs[0].desc.type, inputs[0].max.d[0]);
    });
  }

  // The op has one tactic, so its time depends only on the shapes; null would forbid caching.
  const char* getTimingCacheID() noexcept override { return "AfdetDecodeNMS_1"; }

  // IPluginV3OneRuntime

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t count, const PluginTensorDesc*,
                        int32_t) noexcept override {
    return guarded<int32_t>(-1, [&] {
      std::vector<Shape> heads;
      for (int32_t i = 0; i < count; ++i) heads.push_back(to_shape(inputs[i].dims));
      return fits(options_, heads, inputs[0].dims.d[0]) ? 0 : -1;
    });
  }

  int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc*, const void* const* heads,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guarded<int32_t>(
        -1, [&] { return afdet::enqueue(options_, inputs, heads, outputs, workspace, stream); });
  }

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return guarded<const nvinfer1::PluginFieldCollection*>(nullptr, [this] {
      // TensorRT reads them after the return, so they live as long as this object.
      fields_.clear();
      for (const Field& field : fields_of(options_)) fields_.push_back(to_plugin_field(field));
      collection_.nbFields = static_cast<int32_t>(fields_.size());
      collection_.fields = fields_.data();
      return &collection_;
    });
  }

 private:
  const Options options_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  const char* getPluginName() const noexcept override { return kOpName; }
  const char* getPluginVersion() const noexcept override { return kOpVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    return guarded<const nvinfer1::PluginFieldCollection*>(nullptr, offered_fields);
  }

  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection,
                                    nvinfer1::TensorRTPhase) noexcept override {
    return guarded<nvinfer1::IPluginV3*>(nullptr, [&]() -> nvinfer1::IPluginV3* {
      const std::vector<Field> fields = to_fields(collection);
      Options options;
      const std::string error =
          read_options(fields.data(), static_cast<int32_t>(fields.size()), &options);
      if (error.empty()) return new DecodeNms(options);
      report(error);
      return nullptr;
    });
  }
};

}  // namespace

CreatorInterface* creator() {
  static Creator instance;
  return &instance;
}

}  // namespace afdet

#endif  // AFDET_PLUGIN_V3

// The op for TensorRT 8.5 and 8.6: IPluginV2DynamicExt.
#include "tensorrt/glue.hpp"

#if !AFDET_PLUGIN_V3

#include <cstring>

namespace afdet {
namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

class DecodeNms final : public nvinfer1::IPluginV2DynamicExt {
 public:
  explicit DecodeNms(const Options& options) : options_(options), bytes_(to_bytes(options)) {}

  // IPluginV2

  const char* getPluginType() const noexcept override { return kOpName; }
  const char* getPluginVersion() const noexcept override { return kOpVersion; }
  int32_t getNbOutputs() const noexcept override { return kOutputs; }
  int32_t initialize() noexcept override { return 0; }
  void terminate() noexcept override {}
  size_t getSerializationSize() const noexcept override { return bytes_.size(); }
  void serialize(void* buffer) const noexcept override {
    std::memcpy(buffer, bytes_.data(), bytes_.size());
  }
  void destroy() noexcept override { delete this; }
  void setPluginNamespace(const char* name) noexcept override {
    guarded<int>(0, [&] {
      namespace_ = name == nullptr ? "" : name;
      return 0;
    });
  }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  // IPluginV2Ext

  nvinfer1::DataType getOutputDataType(int32_t output, const nvinfer1::DataType*,
                                       int32_t) const noexcept override {
    return output_type(output);
  }

  // IPluginV2DynamicExt

  nvinfer1::IPluginV2DynamicExt* clone() const noexcept override {
    return guarded<nvinfer1::IPluginV2DynamicExt*>(nullptr, [this] {
      DecodeNms* copy = new DecodeNms(options_);
      copy->namespace_ = namespace_;
      copy->fits_ = fits_;
      return copy;
    });
  }

  nvinfer1::DimsExprs getOutputDimensions(int32_t output, const nvinfer1::DimsExprs* inputs,
                                          int32_t count,
                                          nvinfer1::IExprBuilder& builder) noexcept override {
    const nvinfer1::DimsExprs none{-1, {}};
    return guarded<nvinfer1::DimsExprs>(none, [&] {
      std::vector<Shape> heads;
      for (int32_t i = 0; i < count; ++i) heads.push_back(to_shape(inputs[i]));
      return fits(options_, heads, -1) ? output_shape(options_, output, inputs[0], builder) : none;
    });
  }

  bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t inputs,
                                 int32_t) noexcept override {
    return supports(position, inputs,
                    [tensors](int32_t i) -> const PluginTensorDesc& { return tensors[i]; });
  }

  void configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t count,
                       const DynamicPluginTensorDesc*, int32_t) noexcept override {
    fits_ = guarded<bool>(false, [&] {
      std::vector<Shape> heads;
      for (int32_t i = 0; i < count; ++i) heads.push_back(to_shape(inputs[i].desc.dims));
      return fits(options_, heads, inputs[0].max.d[0]);
    });
  }

  size_t getWorkspaceSize(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*,
                          int32_t) const noexcept override {
    return guarded<size_t>(0, [&] {
      return workspace_bytes(options_, inputs[0].dims.d[1], inputs[0].type, inputs[0].dims.d[0]);
    });
  }

  int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc*, const void* const* heads,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guarded<int32_t>(-1, [&] {
      // With this interface, failing here is the only way to refuse shapes.
      if (!fits_) return -1;
      return afdet::enqueue(options_, inputs, heads, outputs, workspace, stream);
    });
  }

 private:
  const Options options_;
  const std::vector<uint8_t> bytes_;
  std::string namespace_;
  bool fits_ = true;
};

class Creator final : public nvinfer1::IPluginCreator {
 public:
  const char* getPluginName() const noexcept override { return kOpName; }
  const char* getPluginVersion() const noexcept override { return kOpVersion; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    return guarded<const nvinfer1::PluginFieldCollection*>(nullptr, offered_fields);
  }

  nvinfer1::IPluginV2DynamicExt* createPlugin(
      const char*, const nvinfer1::PluginFieldCollection* collection) noexcept override {
    return guarded<nvinfer1::IPluginV2DynamicExt*>(nullptr, [&] {
      const std::vector<Field> fields = to_fields(collection);
      Options options;
      return make(read_options(fields.data(), static_cast<int32_t>(fields.size()), &options),
                  options);
    });
  }

  nvinfer1::IPluginV2DynamicExt* deserializePlugin(const char*, const void* data,
                                                   size_t size) noexcept override {
    return guarded<nvinfer1::IPluginV2DynamicExt*>(nullptr, [&] {
      Options options;
      return make(from_bytes(data, size, &options), options);
    });
  }

  void setPluginNamespace(const char* name) noexcept override {
    guarded<int>(0, [&] {
      namespace_ = name == nullptr ? "" : name;
      return 0;
    });
  }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

 private:
  nvinfer1::IPluginV2DynamicExt* make(const std::string& error, const Options& options) const {
    if (!error.empty()) {
      report(error);
      return nullptr;
    }
    DecodeNms* plugin = new DecodeNms(options);
    plugin->setPluginNamespace(namespace_.c_str());
    return plugin;
  }

  std::string namespace_;
};

}  // namespace

CreatorInterface* creator() {
  static Creator instance;
  return &instance;
}

}  // namespace afdet

#endif  // !AFDET_PLUGIN_V3

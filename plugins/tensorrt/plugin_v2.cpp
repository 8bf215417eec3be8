// The op for TensorRT 8.5 and 8.6: IPluginV2DynamicExt.
#include "tensorrt/glue.hpp"

#if NV_TENSORRT_MAJOR < 10

#include <dlfcn.h>

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
      return copy;
    });
  }

  nvinfer1::DimsExprs getOutputDimensions(int32_t output, const nvinfer1::DimsExprs* inputs,
                                          int32_t count,
                                          nvinfer1::IExprBuilder& builder) noexcept override {
    const nvinfer1::DimsExprs none{-1, {}};
    return guarded<nvinfer1::DimsExprs>(none, [&] {
      if (count == options_.inputs()) return output_shape(options_, output, inputs[0], builder);
      report("the op has as many inputs as twice its strides (got " + std::to_string(count) + ")");
      return none;
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
      std::vector<Shape> shapes;
      for (int32_t i = 0; i < count; ++i) shapes.push_back(to_shape(inputs[i].desc.dims));
      return check(shapes);
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
      // This interface has no other way to refuse shapes than to fail here.
      if (!fits_) return -1;
      return afdet::enqueue(options_, inputs, heads, outputs, workspace, stream);
    });
  }

 private:
  bool check(const std::vector<Shape>& shapes) const {
    int32_t classes;
    const std::string error =
        check_heads(options_, shapes.data(), static_cast<int32_t>(shapes.size()), &classes);
    if (!error.empty()) report(error);
    return error.empty();
  }

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

nvinfer1::IPluginCreator* creator() {
  static Creator instance;
  return &instance;
}

// Loading the library registers the op, as REGISTER_TENSORRT_PLUGIN would, if TensorRT is loaded.
// Asked for by name, so that the library loads without TensorRT too.
struct Registration {
  Registration() {
    const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
    void* library = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return;
    const auto find_logger =
        reinterpret_cast<nvinfer1::ILogger* (*)()>(dlsym(library, "getLogger"));
    if (find_logger != nullptr) set_logger_source(find_logger);
    const auto find_registry =
        reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
    if (find_registry != nullptr) find_registry()->registerCreator(*creator(), "");
  }
};

const Registration registration;

}  // namespace
}  // namespace afdet

#if NV_TENSORRT_MINOR >= 6

// What IPluginRegistry::loadLibrary looks for, from 8.6 on.

extern "C" AFDET_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  if (finder != nullptr) afdet::set_logger_source([finder] { return finder->findLogger(); });
}

extern "C" AFDET_API nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) {
  static nvinfer1::IPluginCreator* const creators[] = {afdet::creator()};
  count = 1;
  return creators;
}

#endif  // NV_TENSORRT_MINOR >= 6

#endif  // NV_TENSORRT_MAJOR < 10

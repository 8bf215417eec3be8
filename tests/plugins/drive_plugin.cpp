// Drives the plugin through TensorRT's own interfaces as an engine does on a GPU, up to the launch:
// what no TensorRT does on a machine without one. Usage: drive_plugin libafdet_plugin.so
#include <NvInfer.h>
#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

using namespace nvinfer1;

struct Logger final : ILogger {
  void log(Severity, const char* text) noexcept override { last = text; }
  std::string last;
};

struct Finder final : ILoggerFinder {
  ILogger* findLogger() override { return &logger; }
  Logger logger;
};

#if NV_TENSORRT_MAJOR >= 10
constexpr const char* kGetCreators = "getCreators";
using Interface = IPluginCreatorInterface;
using Creator = IPluginCreatorV3One;
using Plugin = IPluginV3;
#else
constexpr const char* kGetCreators = "getPluginCreators";
using Interface = IPluginCreator;
using Creator = IPluginCreator;
using Plugin = IPluginV2DynamicExt;
#endif

Finder finder;
Creator* creator = nullptr;

bool logged(const char* text) {
  const bool found = finder.logger.last.find(text) != std::string::npos;
  if (!found) std::printf("logged instead: %s\n", finder.logger.last.c_str());
  finder.logger.last.clear();
  return found;
}

// The attributes of a detector of 128 x 256 pixels, as a parser passes them on.
struct Attributes {
  int32_t height = 128, width = 256, strides[5] = {8, 16, 32, 64, 128};
  float scale = 4.0f, threshold = 0.05f, iou = 0.5f;
  int32_t candidates = 1000, agnostic = 0, most = 7;

  std::vector<PluginField> fields() const {
    const auto whole = PluginFieldType::kINT32;
    const auto real = PluginFieldType::kFLOAT32;
    return {{"height", &height, whole, 1},
            {"width", &width, whole, 1},
            {"strides", strides, whole, 5},
            {"regression_scale", &scale, real, 1},
            {"score_threshold", &threshold, real, 1},
            {"candidates_per_level", &candidates, whole, 1},
            {"nms_iou", &iou, real, 1},
            {"class_agnostic", &agnostic, whole, 1},
            {"max_detections", &most, whole, 1}};
  }
};

PluginTensorDesc describe(DataType type, std::vector<int32_t> sizes) {
  PluginTensorDesc desc{};
  desc.type = type;
  desc.format = TensorFormat::kLINEAR;
  desc.dims.nbDims = static_cast<int32_t>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) desc.dims.d[i] = sizes[i];
  return desc;
}

// Ten heads, then the four outputs.
std::vector<PluginTensorDesc> tensors(DataType type, int32_t batch, int32_t classes) {
  std::vector<PluginTensorDesc> all;
  for (const int32_t channels : {classes, 4}) {
    for (int32_t stride = 8; stride <= 128; stride *= 2) {
      all.push_back(describe(type, {batch, channels, 128 / stride, 256 / stride}));
    }
  }
  all.push_back(describe(DataType::kINT32, {batch, 1}));
  all.push_back(describe(DataType::kFLOAT, {batch, 7, 4}));
  all.push_back(describe(DataType::kFLOAT, {batch, 7}));
  all.push_back(describe(DataType::kINT32, {batch, 7}));
  return all;
}

std::vector<DynamicPluginTensorDesc> dynamic(const std::vector<PluginTensorDesc>& all,
                                             int32_t largest) {
  std::vector<DynamicPluginTensorDesc> result;
  for (const PluginTensorDesc& desc : all) {
    result.push_back({});
    result.back().desc = desc;
    result.back().max = desc.dims;
    result.back().max.d[0] = largest;
    result.back().desc.dims.d[0] = -1;
  }
  return result;
}

#if NV_TENSORRT_MAJOR >= 10

Plugin* make(const std::vector<PluginField>& fields, TensorRTPhase phase = TensorRTPhase::kBUILD) {
  PluginFieldCollection collection{};
  collection.nbFields = static_cast<int32_t>(fields.size());
  collection.fields = fields.data();
  return creator->createPlugin("nms", &collection, phase);
}

void destroy(Plugin* plugin) { delete plugin; }

IPluginV3OneBuild* build(Plugin* plugin) {
  return static_cast<IPluginV3OneBuild*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime* runtime(Plugin* plugin) {
  return static_cast<IPluginV3OneRuntime*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

bool takes(Plugin* plugin, int32_t position, const std::vector<PluginTensorDesc>& all) {
  const auto described = dynamic(all, 8);
  return build(plugin)->supportsFormatCombination(position, described.data(), 10, 4);
}

bool configure(Plugin* plugin, const std::vector<PluginTensorDesc>& all, int32_t largest) {
  const auto described = dynamic(all, largest);
  return build(plugin)->configurePlugin(described.data(), 10, described.data() + 10, 4) == 0;
}

size_t workspace(Plugin* plugin, DataType type, int32_t largest) {
  const auto described = dynamic(tensors(type, 1, 20), largest);
  return build(plugin)->getWorkspaceSize(described.data(), 10, described.data() + 10, 4);
}

int32_t launch(Plugin* plugin, const std::vector<PluginTensorDesc>& all) {
  const void* heads[10] = {};
  void* outputs[4] = {};
  return runtime(plugin)->enqueue(all.data(), all.data() + 10, heads, outputs, nullptr, nullptr);
}

// The serialised fields, copied as an engine file does.
std::vector<std::string> written(Plugin* plugin) {
  std::vector<std::string> all;
  const PluginFieldCollection* fields = runtime(plugin)->getFieldsToSerialize();
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    all.push_back(
        std::string(field.name) + "=" +
        std::string(static_cast<const char*>(field.data), 4 * static_cast<size_t>(field.length)));
  }
  return all;
}

TEST(an_engine_writes_and_reads_it) {
  const Attributes attributes;
  Plugin* first = make(attributes.fields());
  CHECK(first != nullptr);
  const std::vector<std::string> fields = written(first);
  CHECK(fields.size() == 9);
  Plugin* copy = first->clone();
  destroy(first);
  // A copy's fields are its own.
  CHECK(written(copy) == fields);
  const PluginFieldCollection* kept = runtime(copy)->getFieldsToSerialize();
  Plugin* read = make({kept->fields, kept->fields + kept->nbFields}, TensorRTPhase::kRUNTIME);
  CHECK(read != nullptr && written(read) == fields);
  destroy(copy);
  destroy(read);
}

TEST(shapes_are_checked_when_they_change) {
  Plugin* made = make(Attributes().fields());
  Plugin* plugin = runtime(made)->attachToContext(nullptr);
  destroy(made);
  std::vector<PluginTensorDesc> all = tensors(DataType::kHALF, 3, 20);
  const auto change = [&] {
    return runtime(plugin)->onShapeChange(all.data(), 10, all.data() + 10, 4);
  };
  CHECK(change() == 0);
  all[7].dims.d[3] = 9;
  CHECK(change() != 0 && logged("the reg input of stride 32 must have 8 as columns (got 9)"));
  all = tensors(DataType::kHALF, 0, 20);
  CHECK(change() == 0 && launch(plugin, all) == 0);
  CHECK(std::strlen(build(plugin)->getTimingCacheID()) > 0);
  destroy(plugin);
}

#else

Plugin* make(const std::vector<PluginField>& fields) {
  PluginFieldCollection collection{};
  collection.nbFields = static_cast<int32_t>(fields.size());
  collection.fields = fields.data();
  return static_cast<Plugin*>(creator->createPlugin("nms", &collection));
}

void destroy(Plugin* plugin) { plugin->destroy(); }

bool takes(Plugin* plugin, int32_t position, const std::vector<PluginTensorDesc>& all) {
  return plugin->supportsFormatCombination(position, all.data(), 10, 4);
}

int32_t launch(Plugin* plugin, const std::vector<PluginTensorDesc>& all) {
  const void* heads[10] = {};
  void* outputs[4] = {};
  return plugin->enqueue(all.data(), all.data() + 10, heads, outputs, nullptr, nullptr);
}

// This interface refuses what it was configured for when it is to run.
bool configure(Plugin* plugin, const std::vector<PluginTensorDesc>& all, int32_t largest) {
  const auto described = dynamic(all, largest);
  plugin->configurePlugin(described.data(), 10, described.data() + 10, 4);
  return finder.logger.last.empty();
}

size_t workspace(Plugin* plugin, DataType type, int32_t largest) {
  const auto all = tensors(type, largest, 20);
  return plugin->getWorkspaceSize(all.data(), 10, all.data() + 10, 4);
}

std::vector<char> written(const Plugin* plugin) {
  std::vector<char> bytes(plugin->getSerializationSize());
  plugin->serialize(bytes.data());
  return bytes;
}

TEST(an_engine_writes_and_reads_it) {
  Plugin* first = make(Attributes().fields());
  CHECK(first != nullptr);
  first->setPluginNamespace("other");
  const std::vector<char> bytes = written(first);
  Plugin* copy = static_cast<Plugin*>(first->clone());
  destroy(first);
  CHECK(written(copy) == bytes && std::string(copy->getPluginNamespace()) == "other");
  auto* read = static_cast<Plugin*>(creator->deserializePlugin("nms", bytes.data(), bytes.size()));
  CHECK(read != nullptr && written(read) == bytes);
  destroy(copy);
  destroy(read);
}

TEST(damaged_bytes_never_crash) {
  Plugin* plugin = make(Attributes().fields());
  const std::vector<char> bytes = written(plugin);
  destroy(plugin);
  for (size_t size = 0; size < bytes.size(); ++size) {
    CHECK(creator->deserializePlugin("nms", bytes.data(), size) == nullptr);
  }
  CHECK(logged("plugin data are cut off"));
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    std::vector<char> damaged = bytes;
    for (int n = 0; n < 3; ++n) {
      damaged[random() % damaged.size()] ^= static_cast<char>(1u << random() % 8);
    }
    auto* read = creator->deserializePlugin("nms", damaged.data(), damaged.size());
    if (read != nullptr) read->destroy();
  }
}

TEST(a_copy_of_what_does_not_fit_does_not_run) {
  Plugin* plugin = make(Attributes().fields());
  std::vector<PluginTensorDesc> all = tensors(DataType::kFLOAT, 1, 20);
  all[0].dims.d[2] = 1;
  CHECK(!configure(plugin, all, 8));
  Plugin* copy = static_cast<Plugin*>(plugin->clone());
  finder.logger.last.clear();
  // Silent: it was said when it was configured.
  CHECK(launch(copy, all) != 0 && finder.logger.last.empty());
  destroy(plugin);
  destroy(copy);
}

#endif

TEST(types_and_formats) {
  Plugin* plugin = make(Attributes().fields());
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF}) {
    std::vector<PluginTensorDesc> all = tensors(type, 1, 20);
    for (int32_t i = 0; i < 14; ++i) CHECK(takes(plugin, i, all));
    // All heads are of one type.
    all[6].type = type == DataType::kFLOAT ? DataType::kHALF : DataType::kFLOAT;
    CHECK(!takes(plugin, 6, all));
    for (const int32_t i : {0, 6, 11}) {
      all = tensors(type, 1, 20);
      all[static_cast<size_t>(i)].format = TensorFormat::kCHW32;
      CHECK(!takes(plugin, i, all));
    }
    all = tensors(type, 1, 20);
    all[11].type = DataType::kHALF;
    all[13].type = DataType::kFLOAT;
    CHECK(!takes(plugin, 11, all) && !takes(plugin, 13, all));
  }
  std::vector<PluginTensorDesc> all = tensors(DataType::kINT8, 1, 20);
  CHECK(!takes(plugin, 0, all));
  destroy(plugin);
}

TEST(workspace_grows_with_the_batch) {
  Plugin* plugin = make(Attributes().fields());
  const size_t one = workspace(plugin, DataType::kFLOAT, 1);
  const size_t many = workspace(plugin, DataType::kHALF, 64);
  CHECK(one > 0 && many > 32 * one && many < 64 * (one + 4096));
  CHECK(workspace(plugin, DataType::kFLOAT, 65536) == 0 && logged("within 1..65535 (got 65536)"));
  destroy(plugin);
}

TEST(what_the_kernels_cannot_do_is_refused) {
  Plugin* plugin = make(Attributes().fields());
  CHECK(configure(plugin, tensors(DataType::kFLOAT, 1, 20), 65535));
  CHECK(!configure(plugin, tensors(DataType::kFLOAT, 1, 20), 65536));
  CHECK(logged("the batch must be within 1..65535"));
  CHECK(!configure(plugin, tensors(DataType::kFLOAT, 1, -1), 8));
  CHECK(logged("the number of classes must be known"));
  CHECK(!configure(plugin, tensors(DataType::kFLOAT, 1, 1 << 30), 8));
  CHECK(logged("too many (point, class) pairs"));
  destroy(plugin);
}

TEST(a_launch_that_fails_says_why) {
  Plugin* plugin = make(Attributes().fields());
  std::vector<PluginTensorDesc> all = tensors(DataType::kFLOAT, 1, 20);
  CHECK(configure(plugin, all, 8));
  // All pointers are null.
  CHECK(launch(plugin, all) != 0 && logged("AfdetDecodeNMS: the kernels refuse (got status 1)"));
  destroy(plugin);
}

TEST(fields_without_sense_make_no_plugin) {
  const Attributes attributes;
  CHECK(make({}) == nullptr && logged("attribute height is missing"));
  std::vector<PluginField> fields = attributes.fields();
  fields[0].name = nullptr;
  CHECK(make(fields) == nullptr && logged("an attribute has no name"));
  fields = attributes.fields();
  fields[3].data = nullptr;
  CHECK(make(fields) == nullptr && logged("attribute regression_scale must be a number"));
  fields = attributes.fields();
  fields[2].length = 1 << 30;
  CHECK(make(fields) == nullptr && logged("attribute strides must be a list of whole numbers"));
  fields = attributes.fields();
  fields[1].type = PluginFieldType::kDIMS;
  CHECK(make(fields) == nullptr && logged("(got another type)"));
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::printf("%s\n", argc == 2 ? dlerror() : "give the library");
    return 2;
  }
  const auto set_finder =
      reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  const auto get_creators =
      reinterpret_cast<Interface* const* (*)(int32_t&)>(dlsym(library, kGetCreators));
  if (set_finder == nullptr || get_creators == nullptr) return 2;
  set_finder(&finder);
  int32_t count = 0;
  Interface* const* creators = get_creators(count);
  if (count != 1) return 2;
  creator = static_cast<Creator*>(creators[0]);
  return afdet_test::run_all();
}

// Registers the op with TensorRT: automatically when the library is opened (dlopen, as Triton,
// DeepStream and trtexec's --staticPlugins do; the only way on 8.5), or through
// IPluginRegistry::loadLibrary, from 8.6 on.
#include <dlfcn.h>

#include "tensorrt/glue.hpp"

namespace afdet {
namespace {

// Looked up by name, so that the library loads without TensorRT; only in the major version that it
// was built for, because the virtual functions of a registry differ between versions.
nvinfer1::IPluginRegistry* opening_registry() {
  const std::string name = AFDET_TENSORRT_LIBRARY + std::to_string(NV_TENSORRT_MAJOR);
  void* const library = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  using FindLogger = nvinfer1::ILogger* (*)();
  using FindRegistry = nvinfer1::IPluginRegistry* (*)();
  static const auto find_logger = reinterpret_cast<FindLogger>(dlsym(library, "getLogger"));
  const auto find_registry = reinterpret_cast<FindRegistry>(dlsym(library, "getPluginRegistry"));
  if (find_logger != nullptr) {
    set_logger_source([](void*) { return find_logger(); }, nullptr);
  }
  return find_registry == nullptr ? nullptr : find_registry();
}

// Like REGISTER_TENSORRT_PLUGIN, if TensorRT is already loaded.
struct Registration {
  Registration() {
    guarded<int>(0, [this] {
      registry = opening_registry();
      if (registry != nullptr && !registry->registerCreator(*creator(), "")) registry = nullptr;
      return 0;
    });
  }

  // loadLibrary opens the library, then refuses an op that is already registered: deregister it.
  void withdraw() {
    if (registry != nullptr) registry->deregisterCreator(*creator());
    registry = nullptr;
  }

  nvinfer1::IPluginRegistry* registry = nullptr;
};

Registration registration;

}  // namespace
}  // namespace afdet

#if AFDET_PLUGIN_V3
#define AFDET_GET_CREATORS getCreators
#elif NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR >= 806
#define AFDET_GET_CREATORS getPluginCreators
#endif

// loadLibrary looks up these functions.
#if defined(AFDET_GET_CREATORS)

extern "C" AFDET_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  if (finder == nullptr) return;
  afdet::set_logger_source(
      [](void* found) { return static_cast<nvinfer1::ILoggerFinder*>(found)->findLogger(); },
      finder);
}

extern "C" AFDET_API afdet::CreatorInterface* const* AFDET_GET_CREATORS(int32_t& count) {
  static afdet::CreatorInterface* const creators[] = {afdet::creator()};
  afdet::guarded<int>(0, [] {
    afdet::registration.withdraw();
    return 0;
  });
  count = 1;
  return creators;
}

#endif

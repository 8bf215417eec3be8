// Information about the plugin, available without TensorRT.
#include "afdet/cuda.h"
#include "afdet/plugin.h"
#include "tensorrt/glue.hpp"

int32_t afdet_plugin_abi_version(void) { return AFDET_ABI_VERSION; }

const char* afdet_plugin_build_info(void) {
  static const std::string text = AFDET_TENSORRT_NAME " " + std::to_string(NV_TENSORRT_MAJOR) +
                                  "." + std::to_string(NV_TENSORRT_MINOR) + ", " +
                                  (AFDET_PLUGIN_V3 ? "IPluginV3" : "IPluginV2DynamicExt") + ", " +
                                  afdet_cuda_build_info();
  return text.c_str();
}

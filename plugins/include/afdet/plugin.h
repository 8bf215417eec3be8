/* libafdet_plugin: information about the TensorRT plugin, available without TensorRT. */
#ifndef AFDET_PLUGIN_H
#define AFDET_PLUGIN_H

#include "afdet/types.h"

#ifdef __cplusplus
extern "C" {
#endif

AFDET_API int32_t afdet_plugin_abi_version(void);

/* TensorRT's version, the plugin interface and the architectures built for
   ("TensorRT 10.3, IPluginV3, CUDA 13.0, sm_75 ..."). Static; never null. */
AFDET_API const char* afdet_plugin_build_info(void);

#ifdef __cplusplus
}
#endif

#endif

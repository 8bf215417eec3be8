/* libafdet_host: decode + NMS on the CPU. It depends only on the C++ runtime. */
#ifndef AFDET_HOST_H
#define AFDET_HOST_H

#include "afdet/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* AFDET_ABI_VERSION that the library was built with. */
AFDET_API int32_t afdet_host_abi_version(void);

/* The compiler and the instruction set in use, as readable text. Static; never null. */
AFDET_API const char* afdet_host_build_info(void);

/* Turns heads into detections.

   params   parameters; see AfdetParams.
   heads    2 * num_levels pointers: cls [N, K, H, W] of each level, then reg [N, 4, H, W] of each
            level, contiguous, aligned to their element.
   dtype    element type of all heads.
   batch    N, 0 allowed.
   wanted   one byte per class, non-zero for wanted classes; null for all classes.
   threads  maximum number of threads, at least 1; one image is never split.
   out      host memory for the results.

   Thread-safe: the library keeps no state between calls. */
AFDET_API AfdetStatus afdet_host_detect(const AfdetParams* params, const void* const* heads,
                                        int32_t dtype, int32_t batch, const uint8_t* wanted,
                                        int32_t threads, const AfdetDetections* out);

#ifdef __cplusplus
}
#endif

#endif

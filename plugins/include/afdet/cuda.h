/* libafdet_cuda: decode + NMS and letterbox on the GPU. Needs the CUDA runtime, not TensorRT.

   Functions do not allocate, wait for the device or keep state. They only queue work on the
   stream, so a CUDA graph can capture them. Two runs on the same input are bit-equal. */
#ifndef AFDET_CUDA_H
#define AFDET_CUDA_H

#include "afdet/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A cudaStream_t. */
typedef void* AfdetStream;

/* Layout of a frame's pixels. */
enum {
  AFDET_BGR = 0,  /* uint8 [height, width, 3] */
  AFDET_NV12 = 1, /* uint8 Y [height, width], then interleaved UV [height / 2, width / 2, 2] */
};

/* Colour of NV12 frames. */
enum {
  AFDET_BT601_LIMITED = 0, /* the default of OpenCV's cvtColor */
  AFDET_BT601_FULL = 1,
  AFDET_BT709_LIMITED = 2,
  AFDET_BT709_FULL = 3,
};

/* One frame and its placement in the network input (trt_afdet.geometry.Letterbox). */
typedef struct AfdetFrameDescriptor {
  const uint8_t* planes[2]; /* device memory; planes[1] for NV12 only */
  int32_t pitches[2];       /* bytes from one row to the next */
  int32_t height;           /* of the frame; NV12 needs even sizes */
  int32_t width;
  int32_t format;
  int32_t color; /* of NV12 */
  int32_t top;   /* of the resized frame inside the input, pixels */
  int32_t left;
  int32_t box_height; /* of the resized frame */
  int32_t box_width;
} AfdetFrameDescriptor;

/* Parameters of the preprocessing; ModelSpec has the same values under the same names. */
typedef struct AfdetInputParams {
  uint32_t struct_size; /* sizeof(AfdetInputParams) */
  int32_t height;
  int32_t width;     /* a multiple of 4 */
  int32_t pad_value; /* 0..255 */
  int32_t bgr;       /* 1: the network expects BGR, 0: RGB */
  float mean[3];     /* in the network's channel order, for pixels scaled to 0..1 */
  float std[3];
} AfdetInputParams;

AFDET_API int32_t afdet_cuda_abi_version(void);

/* The toolkit and the architectures built for ("CUDA 13.0, sm_75 ... sm_121, compute_121").
   Static; never null. */
AFDET_API const char* afdet_cuda_build_info(void);

/* Bytes of workspace that afdet_cuda_detect needs. */
AFDET_API AfdetStatus afdet_cuda_detect_workspace(const AfdetParams* params, int32_t dtype,
                                                  int32_t batch, size_t* bytes);

/* Turns heads into detections.

   params     parameters; host memory, read before the call returns.
   heads      host array of 2 * num_levels device pointers: cls [N, K, H, W] of each level, then
              reg [N, 4, H, W] of each level, contiguous, 16-byte aligned.
   dtype      element type of all heads.
   batch      N, 1..65535.
   out        device memory for the results; the struct itself is host memory.
   workspace  device memory, 256-byte aligned, contents undefined before and after. */
AFDET_API AfdetStatus afdet_cuda_detect(const AfdetParams* params, const void* const* heads,
                                        int32_t dtype, int32_t batch, const AfdetDetections* out,
                                        void* workspace, size_t workspace_bytes,
                                        AfdetStream stream);

/* Fills top, left, box_height and box_width of frames whose height and width are set: the largest
   centred placement with the same aspect ratio. Host memory. */
AFDET_API AfdetStatus afdet_cuda_place_frames(const AfdetInputParams* params,
                                              AfdetFrameDescriptor* frames, int32_t count);

/* Checks frames and their placement before they are copied to the device. Host memory; the planes
   are not read. */
AFDET_API AfdetStatus afdet_cuda_check_frames(const AfdetInputParams* params,
                                              const AfdetFrameDescriptor* frames, int32_t count);

/* Turns frames of any sizes into one network input [count, 3, height, width], in one launch.

   params  parameters; host memory.
   frames  device memory [count] (so that a captured graph can read different frames each time),
           checked by afdet_cuda_check_frames.
   output  device memory, 16-byte aligned.
   dtype   element type of the output. */
AFDET_API AfdetStatus afdet_cuda_letterbox(const AfdetInputParams* params,
                                           const AfdetFrameDescriptor* frames, int32_t count,
                                           void* output, int32_t dtype, AfdetStream stream);

#ifdef __cplusplus
}
#endif

#endif

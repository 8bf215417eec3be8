/* Types shared by all native parts of trt-afdet. Plain C; see plugins/README.md. */
#ifndef AFDET_TYPES_H
#define AFDET_TYPES_H

#include <stddef.h>
#include <stdint.h>

#define AFDET_ABI_VERSION 1
#define AFDET_MAX_LEVELS 8

#if defined(_WIN32)
#define AFDET_API __declspec(dllexport)
#else
#define AFDET_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The result of every function. A CUDA error e is returned as AFDET_ERROR_CUDA + e. */
typedef int32_t AfdetStatus;
enum {
  AFDET_OK = 0,
  AFDET_ERROR_NULL_POINTER = 1,   /* a pointer that must not be null is null */
  AFDET_ERROR_STRUCT_SIZE = 2,    /* struct_size differs from this library's */
  AFDET_ERROR_LEVELS = 3,         /* num_levels or a stride is out of range */
  AFDET_ERROR_INPUT_SIZE = 4,     /* height or width is not a positive multiple of every stride */
  AFDET_ERROR_CLASSES = 5,        /* num_classes is below 1, or too many pairs for a key */
  AFDET_ERROR_LIMITS = 6,         /* candidates_per_level or max_detections is out of range */
  AFDET_ERROR_THRESHOLDS = 7,     /* a threshold is outside 0..1 or NaN, or the scale not above 0 */
  AFDET_ERROR_BATCH = 8,          /* the batch is out of range */
  AFDET_ERROR_DTYPE = 9,          /* not one of AFDET_FLOAT32, AFDET_FLOAT16 */
  AFDET_ERROR_WORKSPACE = 10,     /* the workspace is too small, or not aligned */
  AFDET_ERROR_NO_MEMORY = 11,     /* the system could not provide memory or a thread */
  AFDET_ERROR_FRAME = 12,         /* a frame's size, pitch, format or placement is out of range */
  AFDET_ERROR_NORMALISATION = 13, /* pad_value, mean or std is out of range or NaN */
  AFDET_ERROR_ALIGNMENT = 14,     /* a pointer is not aligned */
  AFDET_ERROR_CUDA = 1000
};

/* Element type of a tensor. */
enum { AFDET_FLOAT32 = 0, AFDET_FLOAT16 = 1 };

/* Parameters of decode and NMS; ModelSpec has the same values under the same names. */
typedef struct AfdetParams {
  uint32_t struct_size; /* sizeof(AfdetParams): a later version may append fields */
  int32_t num_levels;
  int32_t num_classes;
  int32_t height; /* of the network input, pixels */
  int32_t width;
  int32_t strides[AFDET_MAX_LEVELS]; /* increasing powers of two */
  int32_t candidates_per_level;
  int32_t max_detections;
  int32_t class_agnostic; /* 0 or 1 */
  float regression_scale;
  float score_threshold;
  float nms_iou;
} AfdetParams;

/* Arrays for detections, best first; N is the batch, M max_detections. Rows past num_detections[n]
   are zero, their class -1. */
typedef struct AfdetDetections {
  int32_t* num_detections; /* [N, 1] */
  float* boxes;            /* [N, M, 4] x1 y1 x2 y2 in network-input pixels */
  float* scores;           /* [N, M] */
  int32_t* classes;        /* [N, M] */
} AfdetDetections;

#ifdef __cplusplus
}
#endif

#endif

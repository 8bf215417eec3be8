// Checked AfdetParams and the values derived from them: thresholds and the point grid.
#pragma once

#include <cmath>
#include <limits>

#include "afdet/types.h"
#include "config.hpp"
#include "key.hpp"

namespace afdet {

// The points of one pyramid level. Point p is at ((p % columns + 0.5) * stride,
// (p / columns + 0.5) * stride).
struct Level {
  int32_t rows, columns, stride;
  float scale;  // regression_scale * stride: pixels per unit of distance

  AFDET_HD int32_t points() const { return rows * columns; }
  AFDET_HD float x(int32_t point) const {
    return mul(static_cast<float>(point % columns) + 0.5f, static_cast<float>(stride));
  }
  AFDET_HD float y(int32_t point) const {
    return mul(static_cast<float>(point / columns) + 0.5f, static_cast<float>(stride));
  }
};

// All parameters of the algorithms, passed to kernels by value.
struct DecodeParams {
  Level levels[AFDET_MAX_LEVELS];
  int32_t num_levels;
  int32_t num_classes;
  int32_t candidates_per_level;
  int32_t max_detections;
  bool class_agnostic;
  float width, height;
  float logit_threshold;
  float nms_iou;

  AFDET_HD int32_t pairs(int level) const { return levels[level].points() * num_classes; }
};

// ln(t / (1 - t)) in double precision, rounded. -inf admits all logits above it, +inf none.
inline float logit_threshold(float probability) {
  if (probability <= 0.0f) return -std::numeric_limits<float>::infinity();
  if (probability >= 1.0f) return std::numeric_limits<float>::infinity();
  const double p = static_cast<double>(probability);
  return static_cast<float>(std::log(p / (1.0 - p)));
}

// Upper bound of the limits, because results are indexed with 32 bits.
constexpr int32_t kMaxLimit = 1 << 20;

// Checks the parameters and fills `decode`; an error leaves it unchanged.
inline AfdetStatus make_decode_params(const AfdetParams* params, DecodeParams* decode) {
  if (params == nullptr) return AFDET_ERROR_NULL_POINTER;
  if (params->struct_size != sizeof(AfdetParams)) return AFDET_ERROR_STRUCT_SIZE;
  if (params->num_levels < 1 || params->num_levels > AFDET_MAX_LEVELS) return AFDET_ERROR_LEVELS;
  if (params->height < 1 || params->width < 1) return AFDET_ERROR_INPUT_SIZE;
  if (params->num_classes < 1) return AFDET_ERROR_CLASSES;
  if (params->candidates_per_level < 1 || params->candidates_per_level > kMaxLimit ||
      params->max_detections < 1 || params->max_detections > kMaxLimit) {
    return AFDET_ERROR_LIMITS;
  }
  // This form rejects NaN.
  if (!(params->score_threshold >= 0.0f && params->score_threshold <= 1.0f) ||
      !(params->nms_iou >= 0.0f && params->nms_iou <= 1.0f) ||
      !(params->regression_scale > 0.0f &&
        params->regression_scale <= std::numeric_limits<float>::max())) {
    return AFDET_ERROR_THRESHOLDS;
  }
  DecodeParams result{};
  int32_t previous = 0;
  for (int level = 0; level < params->num_levels; ++level) {
    const int32_t stride = params->strides[level];
    if (stride <= previous || (stride & (stride - 1)) != 0) return AFDET_ERROR_LEVELS;
    if (params->height % stride != 0 || params->width % stride != 0) return AFDET_ERROR_INPUT_SIZE;
    Level& out = result.levels[level];
    out.rows = params->height / stride;
    out.columns = params->width / stride;
    out.stride = stride;
    out.scale = mul(params->regression_scale, static_cast<float>(stride));
    const int64_t points = static_cast<int64_t>(out.rows) * out.columns;
    if (points > kMaxRanks) return AFDET_ERROR_INPUT_SIZE;
    if (points * params->num_classes > static_cast<int64_t>(kMaxRanks)) return AFDET_ERROR_CLASSES;
    previous = stride;
  }
  result.num_levels = params->num_levels;
  result.num_classes = params->num_classes;
  result.candidates_per_level = params->candidates_per_level;
  result.max_detections = params->max_detections;
  result.class_agnostic = params->class_agnostic != 0;
  result.width = static_cast<float>(params->width);
  result.height = static_cast<float>(params->height);
  result.logit_threshold = logit_threshold(params->score_threshold);
  result.nms_iou = params->nms_iou;
  *decode = result;
  return AFDET_OK;
}

}  // namespace afdet

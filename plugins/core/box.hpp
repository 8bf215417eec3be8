// Boxes: Eq. (8) as corrected, clipping, overlap.
#pragma once

#include <cmath>

#include "config.hpp"

namespace afdet {

// Corners in network-input pixels.
struct Box {
  float x1, y1, x2, y2;
};

AFDET_HD bool is_finite(float value) { return (float_bits(value) & 0x7F800000u) != 0x7F800000u; }

AFDET_HD float clamp(float value, float high) { return minimum(maximum(value, 0.0f), high); }

// Turns distances (left, top, right, bottom) in units of `scale` around a point into a box, clipped
// to [0, width] x [0, height]. False if a corner is not finite before clipping, or the clipped box
// is empty.
AFDET_HD bool decode_box(float x, float y, float left, float top, float right, float bottom,
                         float scale, float width, float height, Box* box) {
  const float x1 = sub(x, mul(left, scale));
  const float y1 = sub(y, mul(top, scale));
  const float x2 = add(x, mul(right, scale));
  const float y2 = add(y, mul(bottom, scale));
  if (!(is_finite(x1) && is_finite(y1) && is_finite(x2) && is_finite(y2))) return false;
  *box = {clamp(x1, width), clamp(y1, height), clamp(x2, width), clamp(y2, height)};
  return box->x2 > box->x1 && box->y2 > box->y1;
}

AFDET_HD float area(const Box& box) { return mul(sub(box.x2, box.x1), sub(box.y2, box.y1)); }

// Whether intersection over union is above the threshold. Two zero areas give 0 / 0, a NaN: false.
AFDET_HD bool overlaps(const Box& a, float area_a, const Box& b, float area_b, float threshold) {
  const float width = maximum(sub(minimum(a.x2, b.x2), maximum(a.x1, b.x1)), 0.0f);
  const float height = maximum(sub(minimum(a.y2, b.y2), maximum(a.y1, b.y1)), 0.0f);
  const float inter = mul(width, height);
  return div(inter, sub(add(area_a, area_b), inter)) > threshold;
}

// Logit to probability. The only error besides rounding is the last bit of the double exponential.
AFDET_HD float sigmoid(float logit) {
  return static_cast<float>(1.0 / (1.0 + exp(-static_cast<double>(logit))));
}

}  // namespace afdet

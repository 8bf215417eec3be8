// Letterbox: where a frame goes in the network input, and its pixels there. Equal to the bit to
// OpenCV's INTER_LINEAR on 8-bit pictures, which training and the CPU runtime use.
#pragma once

#include <cmath>

#include "afdet/cuda.h"
#include "config.hpp"

namespace afdet {

// Fills the placement of a frame whose size is set: the largest that keeps the aspect ratio,
// centred, an odd remainder below and right.
inline void fit_frame(int32_t input_height, int32_t input_width, AfdetFrame* frame) {
  const double ratio = std::fmin(static_cast<double>(input_height) / frame->height,
                                 static_cast<double>(input_width) / frame->width);
  // nearbyint rounds halves to even, as Python's round does.
  const auto side = [ratio](int32_t frame_side, int32_t input_side) {
    const int32_t rounded = static_cast<int32_t>(std::nearbyint(frame_side * ratio));
    const int32_t seen = rounded < 1 ? 1 : rounded;
    return seen < input_side ? seen : input_side;
  };
  frame->box_height = side(frame->height, input_height);
  frame->box_width = side(frame->width, input_width);
  frame->top = (input_height - frame->box_height) / 2;
  frame->left = (input_width - frame->box_width) / 2;
}

// Bits of a coefficient's fraction.
constexpr int kCoefficientBits = 11;
constexpr int kCoefficientOne = 1 << kCoefficientBits;

// The two source pixels of an output pixel along one axis, and how much of each.
struct Taps {
  int32_t first, second;
  int32_t weight_first, weight_second;
};

AFDET_HD int32_t clamp_index(int32_t index, int32_t size) {
  return index < 0 ? 0 : (index < size ? index : size - 1);
}

// Rounds to even, as OpenCV's cvRound does.
AFDET_HD int32_t coefficient(float share) {
  return static_cast<int32_t>(rintf(mul(share, static_cast<float>(kCoefficientOne))));
}

// OpenCV gives a pixel beyond the last column no share, but a row beyond the last one its own: the
// two halves of a pixel are rounded one by one, so that is not the same.
AFDET_HD Taps taps(int32_t output, int32_t output_size, int32_t source_size, bool is_column) {
  const double scale = 1.0 / (static_cast<double>(output_size) / source_size);
  const float position = static_cast<float>((output + 0.5) * scale - 0.5);
  const float whole = floorf(position);
  const int32_t first = static_cast<int32_t>(whole);
  float share = sub(position, whole);
  if (is_column && (first < 0 || first >= source_size - 1)) share = 0.0f;
  return {clamp_index(first, source_size), clamp_index(first + 1, source_size),
          coefficient(sub(1.0f, share)), coefficient(share)};
}

// Four source values to one, each in 0..255: rows first, then columns, in OpenCV's fixed point.
AFDET_HD int32_t interpolate(const Taps& x, const Taps& y, int32_t upper_left, int32_t upper_right,
                             int32_t lower_left, int32_t lower_right) {
  const int32_t upper = upper_left * x.weight_first + upper_right * x.weight_second;
  const int32_t lower = lower_left * x.weight_first + lower_right * x.weight_second;
  return (((y.weight_first * (upper >> 4)) >> 16) + ((y.weight_second * (lower >> 4)) >> 16) + 2) >>
         2;
}

struct Pixel {
  int32_t channel[3];  // blue, green, red
};

// Coefficients of a colour space, scaled by 2^20.
struct YuvMatrix {
  int32_t black, luma, blue_u, green_u, green_v, red_v;
};

AFDET_HD YuvMatrix yuv_matrix(int32_t color) {
  // BT.601 limited is OpenCV's. The others follow from the standards' Kr and Kb.
  switch (color) {
    case AFDET_BT601_FULL:
      return {0, 1048576, 1858077, -360853, -748826, 1470104};
    case AFDET_BT709_LIMITED:
      return {16, 1220945, 2214914, -223608, -558784, 1879810};
    case AFDET_BT709_FULL:
      return {0, 1048576, 1945738, -196424, -490865, 1651297};
    default:
      return {16, 1220542, 2116026, -409993, -852492, 1673527};
  }
}

AFDET_HD int32_t saturate(int32_t value) { return value < 0 ? 0 : (value > 255 ? 255 : value); }

AFDET_HD Pixel yuv_to_bgr(int32_t luma, int32_t u, int32_t v, int32_t color) {
  constexpr int kShift = 20;
  constexpr int32_t kHalf = 1 << (kShift - 1);
  const YuvMatrix matrix = yuv_matrix(color);
  const int32_t level = luma - matrix.black;
  const int32_t base = (level < 0 ? 0 : level) * matrix.luma + kHalf;
  const int32_t blue = u - 128;
  const int32_t red = v - 128;
  return {{saturate((base + matrix.blue_u * blue) >> kShift),
           saturate((base + matrix.green_u * blue + matrix.green_v * red) >> kShift),
           saturate((base + matrix.red_v * red) >> kShift)}};
}

AFDET_HD Pixel read_pixel(const AfdetFrame& frame, int32_t row, int32_t column) {
  const uint8_t* line =
      frame.planes[0] + static_cast<size_t>(row) * static_cast<size_t>(frame.pitches[0]);
  if (frame.format == AFDET_BGR) {
    const uint8_t* pixel = line + 3 * column;
    return {{pixel[0], pixel[1], pixel[2]}};
  }
  const uint8_t* chroma = frame.planes[1] +
                          static_cast<size_t>(row / 2) * static_cast<size_t>(frame.pitches[1]) +
                          column / 2 * 2;
  return yuv_to_bgr(line[column], chroma[0], chroma[1], frame.color);
}

// The 8-bit pixel of the resized frame.
AFDET_HD Pixel resize_pixel(const AfdetFrame& frame, const Taps& x, const Taps& y) {
  const Pixel upper_left = read_pixel(frame, y.first, x.first);
  const Pixel upper_right = read_pixel(frame, y.first, x.second);
  const Pixel lower_left = read_pixel(frame, y.second, x.first);
  const Pixel lower_right = read_pixel(frame, y.second, x.second);
  Pixel result;
  for (int c = 0; c < 3; ++c) {
    result.channel[c] = interpolate(x, y, upper_left.channel[c], upper_right.channel[c],
                                    lower_left.channel[c], lower_right.channel[c]);
  }
  return result;
}

// Pixel value to network input, in the network's channel order: value * factor + offset.
struct Normalisation {
  float factor[3], offset[3];
};

inline Normalisation normalisation(const AfdetInputParams& params) {
  Normalisation result;
  for (int c = 0; c < 3; ++c) {
    const double deviation = static_cast<double>(params.std[c]);
    result.factor[c] = static_cast<float>(1.0 / (255.0 * deviation));
    result.offset[c] = static_cast<float>(-static_cast<double>(params.mean[c]) / deviation);
  }
  return result;
}

constexpr int32_t kLargestSide = 32768;

inline AfdetStatus check_input(const AfdetInputParams* params) {
  if (params == nullptr) return AFDET_ERROR_NULL_POINTER;
  if (params->struct_size != sizeof(AfdetInputParams)) return AFDET_ERROR_STRUCT_SIZE;
  if (params->height < 1 || params->height > kLargestSide || params->width < 1 ||
      params->width > kLargestSide) {
    return AFDET_ERROR_INPUT_SIZE;
  }
  bool good = params->pad_value >= 0 && params->pad_value <= 255;
  for (int c = 0; c < 3; ++c) {
    // Written so that NaN fails; infinity minus itself is one.
    good = good && params->std[c] > 0.0f && params->std[c] - params->std[c] == 0.0f &&
           params->mean[c] - params->mean[c] == 0.0f;
  }
  return good ? AFDET_OK : AFDET_ERROR_THRESHOLDS;
}

inline AfdetStatus check_frame(const AfdetInputParams& params, const AfdetFrame& frame) {
  if (frame.format != AFDET_BGR && frame.format != AFDET_NV12) return AFDET_ERROR_FRAME;
  const bool nv12 = frame.format == AFDET_NV12;
  if (frame.planes[0] == nullptr || (nv12 && frame.planes[1] == nullptr)) {
    return AFDET_ERROR_NULL_POINTER;
  }
  if (frame.height < 1 || frame.height > kLargestSide || frame.width < 1 ||
      frame.width > kLargestSide) {
    return AFDET_ERROR_FRAME;
  }
  if (nv12 && (frame.height % 2 != 0 || frame.width % 2 != 0 || frame.pitches[1] < frame.width ||
               frame.color < AFDET_BT601_LIMITED || frame.color > AFDET_BT709_FULL)) {
    return AFDET_ERROR_FRAME;
  }
  if (frame.pitches[0] < frame.width * (nv12 ? 1 : 3)) return AFDET_ERROR_FRAME;
  const bool inside = frame.top >= 0 && frame.left >= 0 && frame.box_height >= 1 &&
                      frame.box_width >= 1 && frame.box_height <= params.height - frame.top &&
                      frame.box_width <= params.width - frame.left;
  return inside ? AFDET_OK : AFDET_ERROR_FRAME;
}

}  // namespace afdet

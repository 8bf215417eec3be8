// Frame to network input: placement, bilinear resize, NV12 to BGR, normalisation. All integer steps
// follow OpenCV, so every pixel equals trt_afdet.preprocess bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "afdet/cuda.h"
#include "config.hpp"

namespace afdet {

// Largest side of a frame or of the network input; it keeps every coordinate exact in float32.
constexpr int32_t kMaxSide = 1 << 16;

// Number of neighbouring pixels that are written together; it divides the input's width.
constexpr int32_t kColumns = 4;

// Fractions of a pixel are in units of 1/2048, as in OpenCV.
constexpr uint32_t kWhole = 2048;

// Rounded once, on every device.
AFDET_HD float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

// The largest centred placement that keeps the aspect ratio. Python's round goes to even, as
// nearbyint does.
inline void place_frame(const AfdetInputParams& params, AfdetFrameDescriptor* frame) {
  const auto ratio_of = [](int32_t to, int32_t from) {
    return static_cast<double>(to) / static_cast<double>(from);
  };
  const double ratio =
      std::min(ratio_of(params.height, frame->height), ratio_of(params.width, frame->width));
  const auto resized = [&](int32_t size, int32_t most) {
    const double side = std::nearbyint(static_cast<double>(size) * ratio);
    return std::min(most, std::max(1, static_cast<int32_t>(side)));
  };
  frame->box_height = resized(frame->height, params.height);
  frame->box_width = resized(frame->width, params.width);
  frame->top = (params.height - frame->box_height) / 2;
  frame->left = (params.width - frame->box_width) / 2;
}

inline bool is_side(int32_t value) { return value >= 1 && value <= kMaxSide; }

inline AfdetStatus check_input(const AfdetInputParams* params) {
  if (params == nullptr) return AFDET_ERROR_NULL_POINTER;
  if (params->struct_size != sizeof(AfdetInputParams)) return AFDET_ERROR_STRUCT_SIZE;
  if (!is_side(params->height) || !is_side(params->width) || params->width % kColumns != 0) {
    return AFDET_ERROR_INPUT_SIZE;
  }
  if (params->pad_value < 0 || params->pad_value > 255) return AFDET_ERROR_NORMALISATION;
  for (int c = 0; c < 3; ++c) {
    // This form rejects NaN.
    constexpr float kMost = std::numeric_limits<float>::max();
    if (!(std::fabs(params->mean[c]) <= kMost) ||
        !(params->std[c] > 0.0f && params->std[c] <= kMost)) {
      return AFDET_ERROR_NORMALISATION;
    }
  }
  return AFDET_OK;
}

inline bool is_size_possible(const AfdetFrameDescriptor& frame) {
  return is_side(frame.height) && is_side(frame.width);
}

inline bool is_frame_possible(const AfdetInputParams& params, const AfdetFrameDescriptor& frame) {
  if (!is_size_possible(frame)) return false;
  if (frame.format != AFDET_BGR && frame.format != AFDET_NV12) return false;
  const bool bgr = frame.format == AFDET_BGR;
  if (frame.planes[0] == nullptr || frame.pitches[0] < frame.width * (bgr ? 3 : 1)) return false;
  if (!bgr && (frame.height % 2 != 0 || frame.width % 2 != 0 || frame.planes[1] == nullptr ||
               frame.pitches[1] < frame.width || frame.color < AFDET_BT601_LIMITED ||
               frame.color > AFDET_BT709_FULL)) {
    return false;
  }
  return frame.box_height >= 1 && frame.box_height <= params.height && frame.top >= 0 &&
         frame.top <= params.height - frame.box_height && frame.box_width >= 1 &&
         frame.box_width <= params.width && frame.left >= 0 &&
         frame.left <= params.width - frame.box_width;
}

inline AfdetStatus check_batch(const AfdetInputParams* params, const AfdetFrameDescriptor* frames,
                               int32_t count) {
  const AfdetStatus status = check_input(params);
  if (status != AFDET_OK) return status;
  if (count < 1 || count > 65535) return AFDET_ERROR_BATCH;
  return frames == nullptr ? AFDET_ERROR_NULL_POINTER : AFDET_OK;
}

inline AfdetStatus check_frames(const AfdetInputParams* params, const AfdetFrameDescriptor* frames,
                                int32_t count) {
  const AfdetStatus status = check_batch(params, frames, count);
  if (status != AFDET_OK) return status;
  const bool possible = std::all_of(
      frames, frames + count, [&](const auto& frame) { return is_frame_possible(*params, frame); });
  return possible ? AFDET_OK : AFDET_ERROR_FRAME;
}

inline AfdetStatus place_frames(const AfdetInputParams* params, AfdetFrameDescriptor* frames,
                                int32_t count) {
  const AfdetStatus status = check_batch(params, frames, count);
  if (status != AFDET_OK) return status;
  if (!std::all_of(frames, frames + count, is_size_possible)) return AFDET_ERROR_FRAME;
  std::for_each(frames, frames + count,
                [&](AfdetFrameDescriptor& frame) { place_frame(*params, &frame); });
  return AFDET_OK;
}

// Frame pixels per resized pixel along one axis: the sum of both, exact to at least 44 bits.
struct Scale {
  float high, low;
};

AFDET_HD Scale make_scale(int32_t size, int32_t resized) {
  const float from = static_cast<float>(size);
  const float to = static_cast<float>(resized);
  // An approximation is enough: `low` holds the error of `high`.
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(to));
#else
  const float inverse = 1.0f / to;
#endif
  const float high = mul(from, inverse);
  return {high, mul(fused_multiply_add(-high, to, from), inverse)};
}

// The position of a resized pixel's centre in the frame, in pixels from the centre of the first.
// OpenCV computes it in float64 and rounds it to float32. Two float32 give the same result and are
// faster on GPUs with few float64 units.
AFDET_HD float source_of(int32_t resized, Scale scale) {
  const float center = static_cast<float>(resized) + 0.5f;
  const float product = mul(center, scale.high);
  const float rest =
      fused_multiply_add(center, scale.low, fused_multiply_add(center, scale.high, -product));
  const float shifted = sub(product, 0.5f);
  const float lost = sub(sub(product, shifted), 0.5f);
  return add(shifted, add(lost, rest));
}

// The weights of two neighbours in units of 1/2048: the first in the low half, the second in the
// high half. Adding 2^23 removes the fraction, which rounds to nearest, ties to even.
AFDET_HD uint32_t weights_of(float fraction) {
  const float rounded = fused_multiply_add(fraction, static_cast<float>(kWhole), 0x1p23f);
  return kWhole + (float_bits(rounded) & 0xFFFu) * 0xFFFFu;
}

// The pixel at `index` and the next one.
struct Column {
  int32_t index;
  uint32_t weights;
};

// Beyond an edge, the edge pixel gets the full weight. The next pixel is also in the row, unless
// the row has only one.
AFDET_HD Column column_of(int32_t resized, Scale scale, int32_t width) {
  const float last = static_cast<float>(width - 1);
  const float source = fminf(fmaxf(source_of(resized, scale), 0.0f), last);
  const int32_t whole = static_cast<int32_t>(source);
  const int32_t most = width < 2 ? 0 : width - 2;
  const int32_t index = whole < most ? whole : most;
  return {index, weights_of(sub(source, static_cast<float>(index)))};
}

struct Rows {
  int32_t upper, lower;
  uint32_t weights;
};

// Beyond an edge, the edge row counts twice, with both weights: OpenCV rounds each separately.
AFDET_HD Rows rows_of(int32_t resized, Scale scale, int32_t height) {
  const float source = source_of(resized, scale);
  const float whole = floorf(source);
  const int32_t index = static_cast<int32_t>(whole);
  const int32_t last = height - 1;
  return {index < 0 ? 0 : (index < last ? index : last), index < last ? index + 1 : last,
          weights_of(sub(source, whole))};
}

// The weighted sum of the two low bytes of `pair`, in units of 1/2048.
AFDET_HD uint32_t blend_columns(uint32_t pair, uint32_t weights) {
#if defined(__CUDA_ARCH__)
  return __dp2a_lo(weights, pair, 0u);
#else
  return (pair & 0xFFu) * (weights & 0xFFFFu) + ((pair >> 8) & 0xFFu) * (weights >> 16);
#endif
}

AFDET_HD uint32_t high_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
#endif
}

// The weighted sum of two rows, rounded to 8 bits. OpenCV drops 4 bits before each product and 16
// bits after it.
AFDET_HD uint32_t blend_rows(uint32_t upper, uint32_t lower, uint32_t weights) {
  return (high_product(upper >> 4, weights << 16) +
          high_product(lower >> 4, weights & 0xFFFF0000u) + 2) >>
         2;
}

// YUV to BGR with 20 fractional bits.
struct ColorMatrix {
  int32_t black, luma, u_to_b, u_to_g, v_to_g, v_to_r;
};

// 2^20 times the standards' coefficients, rounded. BT.601 limited uses OpenCV's values.
AFDET_HD ColorMatrix color_matrix(int32_t color) {
  switch (color) {
    case AFDET_BT601_FULL:
      return {0, 1048576, 1858077, -360853, -748826, 1470104};
    case AFDET_BT709_LIMITED:
      return {16, 1220945, 2215014, -223607, -558796, 1879825};
    case AFDET_BT709_FULL:
      return {0, 1048576, 1945738, -196424, -490864, 1651297};
    default:
      return {16, 1220542, 2116026, -409993, -852492, 1673527};
  }
}

// One number per channel.
struct Bgr {
  int32_t b, g, r;
};

// The start of every pixel's sum: half a level minus the contributions of U = V = 128 and black.
AFDET_HD Bgr color_start(const ColorMatrix& matrix) {
  const int32_t rest = (1 << 19) - matrix.black * matrix.luma;
  return {rest - 128 * matrix.u_to_b, rest - 128 * (matrix.u_to_g + matrix.v_to_g),
          rest - 128 * matrix.v_to_r};
}

// U and V are the two low bytes of `uv`.
AFDET_HD Bgr add_chroma(const ColorMatrix& matrix, const Bgr& start, uint32_t uv) {
  const int32_t u = static_cast<int32_t>(uv & 0xFFu);
  const int32_t v = static_cast<int32_t>((uv >> 8) & 0xFFu);
  return {start.b + matrix.u_to_b * u, start.g + matrix.u_to_g * u + matrix.v_to_g * v,
          start.r + matrix.v_to_r * v};
}

AFDET_HD int32_t luma_of(const ColorMatrix& matrix, uint32_t y) {
  const int32_t level = static_cast<int32_t>(y);
  return (level < matrix.black ? matrix.black : level) * matrix.luma;
}

// Two such sums as two bytes, each clamped to 0..255.
AFDET_HD uint32_t to_bytes(int32_t first, int32_t second) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  asm("cvt.pack.sat.u8.s32.b32 %0, %2, %1, 0;" : "=r"(pair) : "r"(first >> 20), "r"(second >> 20));
  return pair;
#else
  const auto cut = [](int32_t value) {
    return static_cast<uint32_t>(value < 0 ? 0 : (value > 255 ? 255 : value));
  };
  return cut(first >> 20) | cut(second >> 20) << 8;
#endif
}

// Parameters of the network input for the kernel, passed by value.
struct Input {
  int32_t height, width;
  // For blue, green and red: the channel of the input, and value = pixel * scale + bias.
  uint32_t channel[3];
  float scale[3], bias[3];
  float pad[3];

  AFDET_HD float normalise(uint32_t pixel, int color) const {
    return fused_multiply_add(static_cast<float>(pixel), scale[color], bias[color]);
  }
};

inline Input make_input(const AfdetInputParams& params) {
  Input input{};
  input.height = params.height;
  input.width = params.width;
  for (int color = 0; color < 3; ++color) {
    const int channel = params.bgr != 0 ? color : 2 - color;
    const double std = static_cast<double>(params.std[channel]);
    input.channel[color] = static_cast<uint32_t>(channel);
    input.scale[color] = static_cast<float>(1.0 / (255.0 * std));
    input.bias[color] = static_cast<float>(-static_cast<double>(params.mean[channel]) / std);
    input.pad[color] = input.normalise(static_cast<uint32_t>(params.pad_value), color);
  }
  return input;
}

}  // namespace afdet

// The letterbox kernel: a thread makes kColumns neighbouring pixels of one row, all channels.
// Threads share nothing, so there is nothing to wait for; plain C++, run by GPU and emulation
// alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/half.hpp"
#include "core/letterbox.hpp"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define AFDET_UNROLL _Pragma("unroll")
#else
#define AFDET_UNROLL
#endif

namespace afdet {

// Threads of a block, along a row and down the rows.
constexpr int32_t kLetterboxLanes = 32;
constexpr int32_t kLetterboxRows = 8;

constexpr int32_t blocks_of(int32_t size, int32_t block) { return (size + block - 1) / block; }
constexpr int32_t blocks_across(int32_t width) {
  return blocks_of(width, kLetterboxLanes * kColumns);
}
constexpr int32_t blocks_down(int32_t height) { return blocks_of(height, kLetterboxRows); }

// Some neighbouring bytes of a row, 8 at most.
struct Bytes {
  uint32_t words[2];

  AFDET_HD uint32_t operator[](int i) const { return (words[i / 4] >> (i % 4 * 8)) & 0xFFu; }
};

// At an address that is a multiple of 4.
AFDET_HD uint32_t load_word(const uint8_t* address) {
#if defined(__CUDA_ARCH__)
  return __ldg(reinterpret_cast<const uint32_t*>(address));
#else
  uint32_t word;
  std::memcpy(&word, address, sizeof word);
  return word;
#endif
}

AFDET_HD uint32_t load_byte(const uint8_t* address) {
#if defined(__CUDA_ARCH__)
  return __ldg(address);
#else
  return *address;
#endif
}

// Bits [shift, shift + 32) of two words; shift < 32.
AFDET_HD uint32_t funnel(uint32_t low, uint32_t high, uint32_t shift) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, shift);
#else
  return static_cast<uint32_t>(((static_cast<uint64_t>(high) << 32) | low) >> shift);
#endif
}

// Bytes past an aligned address that an address is.
AFDET_HD int32_t past_word(const uint8_t* address) {
  return static_cast<int32_t>(reinterpret_cast<uintptr_t>(address) & 3u);
}

// `count` bytes, of the aligned words that hold them.
AFDET_HD Bytes load_by_words(const uint8_t* address, int32_t count) {
  const int32_t past = past_word(address);
  const uint8_t* aligned = address - past;
  const uint32_t first = load_word(aligned);
  const uint32_t second = past + count > 4 ? load_word(aligned + 4) : 0;
  const uint32_t third = past + count > 8 ? load_word(aligned + 8) : 0;
  const uint32_t shift = static_cast<uint32_t>(past) * 8;
  return {{funnel(first, second, shift), funnel(second, third, shift)}};
}

// `kCount` bytes, one by one; kCount is what a loop can be unrolled to.
template <int kCount>
AFDET_HD Bytes load_by_bytes(const uint8_t* address, int32_t count) {
  Bytes bytes{};
  AFDET_UNROLL
  for (int i = 0; i < kCount; ++i) {
    if (i < count) bytes.words[i / 4] |= load_byte(address + i) << (i % 4 * 8);
  }
  return bytes;
}

// Bytes [first, end) of a row, as this thread needs them.
struct Span {
  int32_t first, end;

  // Whether the aligned words that hold them lie within the row too: what is past it may not be
  // memory.
  AFDET_HD bool words_within(const uint8_t* row, int32_t row_bytes) const {
    return past_word(row + first) <= first && ((4 - past_word(row + end)) & 3) <= row_bytes - end;
  }
};

AFDET_HD const uint8_t* row_of(const AfdetFrame& frame, int plane, int32_t row) {
  return frame.planes[plane] + static_cast<size_t>(frame.pitches[plane]) * static_cast<size_t>(row);
}

// The thread's pixels of a BGR frame.
AFDET_HD void sample_bgr(const AfdetFrame& frame, const RowTap& y, const Tap (&x)[kColumns],
                         Bgr (&pixels)[kColumns]) {
  const uint8_t* rows[2] = {row_of(frame, 0, y.rows[0]), row_of(frame, 0, y.rows[1])};
  // A frame of one column has no neighbour to read.
  const int32_t count = frame.width == 1 ? 3 : 6;
  const Span span = {x[0].index * 3, x[kColumns - 1].index * 3 + count};
  Bytes bytes[kColumns][2];
  if (span.words_within(rows[0], frame.width * 3) && span.words_within(rows[1], frame.width * 3)) {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) bytes[k][r] = load_by_words(rows[r] + x[k].index * 3, count);
    }
  } else {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) bytes[k][r] = load_by_bytes<6>(rows[r] + x[k].index * 3, count);
    }
  }
  AFDET_UNROLL
  for (int k = 0; k < kColumns; ++k) {
    Bgr sides[2];
    AFDET_UNROLL
    for (int r = 0; r < 2; ++r) {
      const Bytes& b = bytes[k][r];
      sides[r] = blend_columns(Bgr{b[0], b[1], b[2]}, Bgr{b[3], b[4], b[5]}, x[k].weight);
    }
    pixels[k] = blend_rows(sides[0], sides[1], y.weight);
  }
}

// The thread's pixels of an NV12 frame, whose width is even, so at least 2.
AFDET_HD void sample_nv12(const AfdetFrame& frame, const RowTap& y, const Tap (&x)[kColumns],
                          Bgr (&pixels)[kColumns]) {
  const uint8_t* luma[2] = {row_of(frame, 0, y.rows[0]), row_of(frame, 0, y.rows[1])};
  const uint8_t* chroma[2] = {row_of(frame, 1, y.rows[0] / 2), row_of(frame, 1, y.rows[1] / 2)};
  // A pair of columns shares its chroma, or reaches into the next pair's.
  const auto chroma_count = [](int32_t index) { return index % 2 == 0 ? 2 : 4; };
  const int32_t first = x[0].index;
  const int32_t last = x[kColumns - 1].index;
  const Span luma_span = {first, last + 2};
  const Span chroma_span = {first / 2 * 2, last / 2 * 2 + chroma_count(last)};
  Bytes y_bytes[kColumns][2];
  Bytes uv_bytes[kColumns][2];
  if (luma_span.words_within(luma[0], frame.width) &&
      luma_span.words_within(luma[1], frame.width) &&
      chroma_span.words_within(chroma[0], frame.width) &&
      chroma_span.words_within(chroma[1], frame.width)) {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const int32_t index = x[k].index;
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) {
        y_bytes[k][r] = load_by_words(luma[r] + index, 2);
        uv_bytes[k][r] = load_by_words(chroma[r] + index / 2 * 2, chroma_count(index));
      }
    }
  } else {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const int32_t index = x[k].index;
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) {
        y_bytes[k][r] = load_by_bytes<2>(luma[r] + index, 2);
        uv_bytes[k][r] = load_by_bytes<4>(chroma[r] + index / 2 * 2, chroma_count(index));
      }
    }
  }
  const ColorMatrix matrix = color_matrix(frame.color);
  AFDET_UNROLL
  for (int k = 0; k < kColumns; ++k) {
    Bgr sides[2];
    AFDET_UNROLL
    for (int r = 0; r < 2; ++r) {
      const uint32_t uv = uv_bytes[k][r].words[0];
      const uint32_t next = x[k].index % 2 == 0 ? uv : uv >> 16;
      sides[r] = blend_columns(to_bgr(matrix, y_bytes[k][r][0], uv & 0xFFu, (uv >> 8) & 0xFFu),
                               to_bgr(matrix, y_bytes[k][r][1], next & 0xFFu, (next >> 8) & 0xFFu),
                               x[k].weight);
    }
    pixels[k] = blend_rows(sides[0], sides[1], y.weight);
  }
}

// kColumns values, as one vector store where the type allows.
AFDET_HD void store(float* address, const float (&values)[kColumns]) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<float4*>(address) = make_float4(values[0], values[1], values[2], values[3]);
#else
  std::memcpy(address, values, sizeof values);
#endif
}

AFDET_HD void store(Half* address, const float (&values)[kColumns]) {
#if defined(__CUDA_ARCH__)
  const __half2 low = __floats2half2_rn(values[0], values[1]);
  const __half2 high = __floats2half2_rn(values[2], values[3]);
  *reinterpret_cast<uint2*>(address) =
      make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
#else
  for (int k = 0; k < kColumns; ++k) address[k] = to_half(values[k]);
#endif
}

// What one thread does: columns [left, left + kColumns) of a row of the frame's image.
template <typename T>
AFDET_HD void letterbox_thread(const Input& input, const AfdetFrame& frame, T* image, int32_t left,
                               int32_t row) {
  if (left >= input.width || row >= input.height) return;
  const int32_t resized_row = row - frame.top;
  const int32_t first = left - frame.left;
  float values[3][kColumns];
  AFDET_UNROLL
  for (int c = 0; c < 3; ++c) {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) values[c][k] = input.pad[c];
  }
  if (resized_row >= 0 && resized_row < frame.box_height && first + kColumns > 0 &&
      first < frame.box_width) {
    const RowTap y = row_tap(resized_row, make_scale(frame.height, frame.box_height), frame.height);
    const Scale scale = make_scale(frame.width, frame.box_width);
    Tap x[kColumns];
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const int32_t column = first + k;
      const int32_t last = frame.box_width - 1;
      x[k] = column_tap(column < 0 ? 0 : (column < last ? column : last), scale, frame.width);
    }
    Bgr pixels[kColumns];
    if (frame.format == AFDET_NV12) {
      sample_nv12(frame, y, x, pixels);
    } else {
      sample_bgr(frame, y, x, pixels);
    }
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const int32_t column = first + k;
      if (column < 0 || column >= frame.box_width) continue;
      const Bgr& pixel = pixels[k];
      values[0][k] = input.normalise(input.bgr ? pixel.b : pixel.r, 0);
      values[1][k] = input.normalise(pixel.g, 1);
      values[2][k] = input.normalise(input.bgr ? pixel.r : pixel.b, 2);
    }
  }
  AFDET_UNROLL
  for (int c = 0; c < 3; ++c) {
    const size_t line =
        static_cast<size_t>(c) * static_cast<size_t>(input.height) + static_cast<size_t>(row);
    store(image + line * static_cast<size_t>(input.width) + left, values[c]);
  }
}

// The image of a frame within the output.
template <typename T>
AFDET_HD T* image_of(const Input& input, void* output, int32_t frame) {
  return static_cast<T*>(output) + static_cast<size_t>(frame) * 3 *
                                       static_cast<size_t>(input.height) *
                                       static_cast<size_t>(input.width);
}

// Checks what a launch is given, but for the frames, which lie on the device.
inline AfdetStatus check_letterbox(const AfdetInputParams* params, const AfdetFrame* frames,
                                   int32_t count, const void* output, int32_t dtype) {
  const AfdetStatus status = check_batch(params, frames, count);
  if (status != AFDET_OK) return status;
  if (output == nullptr) return AFDET_ERROR_NULL_POINTER;
  if (dtype != AFDET_FLOAT32 && dtype != AFDET_FLOAT16) return AFDET_ERROR_DTYPE;
  if (reinterpret_cast<uintptr_t>(output) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(frames) % alignof(AfdetFrame) != 0) {
    return AFDET_ERROR_ALIGNMENT;
  }
  return AFDET_OK;
}

}  // namespace afdet

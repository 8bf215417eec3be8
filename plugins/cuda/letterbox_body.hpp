// The letterbox kernel: a thread writes kColumns neighbouring pixels of one row, all channels.
// Threads do not share data, so they need no barriers. The code is plain C++ for GPU and emulation.
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

// Loads the frame's whole descriptor at once. Otherwise the compiler loads its fields one by one in
// the branches that use them, and waits for each.
AFDET_HD AfdetFrameDescriptor load_frame(const AfdetFrameDescriptor* frame) {
#if defined(__CUDA_ARCH__)
  uint64_t words[sizeof(AfdetFrameDescriptor) / 8];
  AFDET_UNROLL
  for (int i = 0; i < static_cast<int>(sizeof(AfdetFrameDescriptor) / 8); ++i) {
    asm volatile("ld.global.nc.u64 %0, [%1];"
                 : "=l"(words[i])
                 : "l"(reinterpret_cast<const uint64_t*>(frame) + i));
  }
  AfdetFrameDescriptor result;
  memcpy(&result, words, sizeof result);
  return result;
#else
  return *frame;
#endif
}

// Threads of a block: columns and rows.
constexpr int32_t kThreadsAcross = 32;
constexpr int32_t kThreadsDown = 8;

constexpr int32_t blocks_of(int32_t size, int32_t block) { return (size + block - 1) / block; }
constexpr int32_t blocks_across(int32_t width) {
  return blocks_of(width, kThreadsAcross * kColumns);
}
constexpr int32_t blocks_down(int32_t height) { return blocks_of(height, kThreadsDown); }

// Up to 8 neighbouring bytes of a row.
struct Bytes {
  uint32_t low, high;
};

// Bytes `first` and `second`, as the two low bytes of the result.
template <int kFirst, int kSecond>
AFDET_HD uint32_t pair_of(const Bytes& bytes) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(bytes.low, bytes.high, kFirst | kSecond << 4);
#else
  const uint64_t all = static_cast<uint64_t>(bytes.high) << 32 | bytes.low;
  return static_cast<uint32_t>((all >> kFirst * 8 & 0xFF) | (all >> kSecond * 8 & 0xFF) << 8);
#endif
}

// Bits [shift % 32, shift % 32 + 32) of two words.
AFDET_HD uint32_t funnel(uint32_t low, uint32_t high, uint32_t shift) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, shift);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> shift % 32);
#endif
}

// A row of a plane: the aligned word with its first byte, and the byte's position in the word.
struct Row {
  const uint32_t* words;
  uint32_t past;

  AFDET_HD Row(const AfdetFrameDescriptor& frame, int plane, int32_t row) {
    const uint8_t* address =
        frame.planes[plane] + static_cast<size_t>(frame.pitches[plane]) * static_cast<size_t>(row);
    past = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address) & 3u);
    words = reinterpret_cast<const uint32_t*>(address - past);
  }

  // Whether the word with the byte before `end` is within the row's `size` bytes. Memory after the
  // row may be unmapped; memory before it is mapped, because allocations start at word boundaries.
  AFDET_HD bool has_word(int32_t end, int32_t size) const {
    return ((past + static_cast<uint32_t>(end) + 3u) & ~3u) <= past + static_cast<uint32_t>(size);
  }

  // `count` bytes, read as whole words.
  AFDET_HD Bytes load_by_words(int32_t first, int32_t count) const {
    const uint32_t at = past + static_cast<uint32_t>(first);
    const int32_t skipped = static_cast<int32_t>(at & 3u);
    const uint32_t* word = words + at / 4;
    const uint32_t a = load(word);
    const uint32_t b = skipped > 4 - count ? load(word + 1) : 0;
    const uint32_t c = skipped > 8 - count ? load(word + 2) : 0;
    return {funnel(a, b, at * 8), funnel(b, c, at * 8)};
  }

  // The same, byte by byte; kMost is the largest count.
  template <int kMost>
  AFDET_HD Bytes load_by_bytes(int32_t first, int32_t count) const {
    const uint8_t* address = reinterpret_cast<const uint8_t*>(words) + past + first;
    Bytes bytes{};
    AFDET_UNROLL
    for (int i = 0; i < kMost; ++i) {
      if (i < count) (i < 4 ? bytes.low : bytes.high) |= uint32_t{load(address + i)} << i % 4 * 8;
    }
    return bytes;
  }

 private:
  template <typename T>
  static AFDET_HD T load(const T* address) {
#if defined(__CUDA_ARCH__)
    return __ldg(address);
#else
    T value;
    std::memcpy(&value, address, sizeof value);
    return value;
#endif
  }
};

// Two horizontal neighbours: for each of blue, green and red, one byte per pixel.
struct Neighbours {
  uint32_t bytes[3];
};

// The thread's pixels of a BGR frame, in both rows.
AFDET_HD void read_bgr(const AfdetFrameDescriptor& frame, const Rows& rows,
                       const Column (&columns)[kColumns], Neighbours (&pixels)[kColumns][2]) {
  const Row lines[2] = {Row(frame, 0, rows.upper), Row(frame, 0, rows.lower)};
  const int32_t end = columns[kColumns - 1].index * 3 + 6;
  const int32_t size = frame.width * 3;
  Bytes bytes[kColumns][2];
  if (lines[0].has_word(end, size) && lines[1].has_word(end, size)) {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) bytes[k][r] = lines[r].load_by_words(columns[k].index * 3, 6);
    }
  } else {
    // A row of one pixel lacks a neighbour.
    const int32_t count = size < 6 ? size : 6;
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) {
        bytes[k][r] = lines[r].load_by_bytes<6>(columns[k].index * 3, count);
      }
    }
  }
  AFDET_UNROLL
  for (int k = 0; k < kColumns; ++k) {
    AFDET_UNROLL
    for (int r = 0; r < 2; ++r) {
      const Bytes& both = bytes[k][r];
      pixels[k][r] = {{pair_of<0, 3>(both), pair_of<1, 4>(both), pair_of<2, 5>(both)}};
    }
  }
}

// The thread's pixels of an NV12 frame, in both rows.
AFDET_HD void read_nv12(const AfdetFrameDescriptor& frame, const Rows& rows,
                        const Column (&columns)[kColumns], Neighbours (&pixels)[kColumns][2]) {
  const Row luma[2] = {Row(frame, 0, rows.upper), Row(frame, 0, rows.lower)};
  const Row chroma[2] = {Row(frame, 1, rows.upper >> 1), Row(frame, 1, rows.lower >> 1)};
  // Two columns share their chroma, or also need that of the next columns.
  const auto chroma_first = [](int32_t index) { return index & ~1; };
  const auto chroma_count = [](int32_t index) { return (index & 1) == 0 ? 2 : 4; };
  const int32_t last = columns[kColumns - 1].index;
  const int32_t luma_end = last + 2;
  const int32_t chroma_end = chroma_first(last) + chroma_count(last);
  const int32_t size = frame.width;
  Bytes y[kColumns][2];
  Bytes uv[kColumns][2];
  if (luma[0].has_word(luma_end, size) && luma[1].has_word(luma_end, size) &&
      chroma[0].has_word(chroma_end, size) && chroma[1].has_word(chroma_end, size)) {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const int32_t index = columns[k].index;
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) {
        y[k][r] = luma[r].load_by_words(index, 2);
        uv[k][r] = chroma[r].load_by_words(chroma_first(index), chroma_count(index));
      }
    }
  } else {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const int32_t index = columns[k].index;
      AFDET_UNROLL
      for (int r = 0; r < 2; ++r) {
        y[k][r] = luma[r].load_by_bytes<2>(index, 2);
        uv[k][r] = chroma[r].load_by_bytes<4>(chroma_first(index), chroma_count(index));
      }
    }
  }
  const ColorMatrix matrix = color_matrix(frame.color);
  const Bgr start = color_start(matrix);
  AFDET_UNROLL
  for (int k = 0; k < kColumns; ++k) {
    AFDET_UNROLL
    for (int r = 0; r < 2; ++r) {
      const uint32_t first_uv = uv[k][r].low;
      const uint32_t second_uv = (columns[k].index & 1) == 0 ? first_uv : first_uv >> 16;
      const Bgr first = add_chroma(matrix, start, first_uv);
      const Bgr second = add_chroma(matrix, start, second_uv);
      const int32_t first_y = luma_of(matrix, y[k][r].low & 0xFFu);
      const int32_t second_y = luma_of(matrix, (y[k][r].low >> 8) & 0xFFu);
      pixels[k][r] = {{to_bytes(first_y + first.b, second_y + second.b),
                       to_bytes(first_y + first.g, second_y + second.g),
                       to_bytes(first_y + first.r, second_y + second.r)}};
    }
  }
}

// Stores kColumns values at once. The compiler would split a vector assignment.
AFDET_HD void store(float* address, const float (&values)[kColumns]) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(values[0]),
               "f"(values[1]), "f"(values[2]), "f"(values[3]));
#else
  std::memcpy(address, values, sizeof values);
#endif
}

AFDET_HD void store(Half* address, const float (&values)[kColumns]) {
#if defined(__CUDA_ARCH__)
  const __half2 low = __floats2half2_rn(values[0], values[1]);
  const __half2 high = __floats2half2_rn(values[2], values[3]);
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(address),
               "r"(reinterpret_cast<const uint32_t&>(low)),
               "r"(reinterpret_cast<const uint32_t&>(high)));
#else
  for (int k = 0; k < kColumns; ++k) address[k] = to_half(values[k]);
#endif
}

// The work of one thread: columns [left, left + kColumns) of a row of the frame's image.
template <typename T>
AFDET_HD void letterbox_thread(const Input& input, const AfdetFrameDescriptor& frame, T* image,
                               int32_t left, int32_t row) {
  if (left >= input.width || row >= input.height) return;
  T* pixel = image + static_cast<size_t>(row) * static_cast<size_t>(input.width) + left;
  const size_t plane = static_cast<size_t>(input.height) * static_cast<size_t>(input.width);
  float values[kColumns];
  const int32_t box_row = row - frame.top;
  const int32_t first = left - frame.left;
  if (box_row < 0 || box_row >= frame.box_height || first <= -kColumns ||
      first >= frame.box_width) {
    AFDET_UNROLL
    for (int color = 0; color < 3; ++color) {
      AFDET_UNROLL
      for (int k = 0; k < kColumns; ++k) values[k] = input.pad[color];
      store(pixel + plane * input.channel[color], values);
    }
    return;
  }
  const Rows rows = rows_of(box_row, make_scale(frame.height, frame.box_height), frame.height);
  const Scale scale = make_scale(frame.width, frame.box_width);
  Column columns[kColumns];
  bool inside[kColumns];
  AFDET_UNROLL
  for (int k = 0; k < kColumns; ++k) {
    columns[k] = column_of(first + k, scale, frame.width);
    inside[k] = first + k >= 0 && first + k < frame.box_width;
  }
  Neighbours pixels[kColumns][2];
  if (frame.format == AFDET_NV12) {
    read_nv12(frame, rows, columns, pixels);
  } else {
    read_bgr(frame, rows, columns, pixels);
  }
  AFDET_UNROLL
  for (int color = 0; color < 3; ++color) {
    AFDET_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const uint32_t upper = blend_columns(pixels[k][0].bytes[color], columns[k].weights);
      const uint32_t lower = blend_columns(pixels[k][1].bytes[color], columns[k].weights);
      const float value = input.normalise(blend_rows(upper, lower, rows.weights), color);
      values[k] = inside[k] ? value : input.pad[color];
    }
    store(pixel + plane * input.channel[color], values);
  }
}

// The image of a frame within the output.
template <typename T>
AFDET_HD T* image_of(const Input& input, void* output, int32_t frame) {
  return static_cast<T*>(output) + static_cast<size_t>(frame) * 3 *
                                       static_cast<size_t>(input.height) *
                                       static_cast<size_t>(input.width);
}

// Checks the arguments of a launch, except the frames, which are in device memory.
inline AfdetStatus check_letterbox(const AfdetInputParams* params,
                                   const AfdetFrameDescriptor* frames, int32_t count,
                                   const void* output, int32_t dtype) {
  const AfdetStatus status = check_batch(params, frames, count);
  if (status != AFDET_OK) return status;
  if (output == nullptr) return AFDET_ERROR_NULL_POINTER;
  if (dtype != AFDET_FLOAT32 && dtype != AFDET_FLOAT16) return AFDET_ERROR_DTYPE;
  if (reinterpret_cast<uintptr_t>(output) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(frames) % alignof(AfdetFrameDescriptor) != 0) {
    return AFDET_ERROR_ALIGNMENT;
  }
  return AFDET_OK;
}

}  // namespace afdet

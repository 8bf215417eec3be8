// A random detection problem with exactly as much memory as it may touch, for tests and fuzzers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "afdet/types.h"
#include "core/half.hpp"

namespace afdet_test {

struct Problem {
  AfdetParams params{};
  int32_t dtype = AFDET_FLOAT32;
  int32_t batch = 0;
  std::vector<std::vector<uint8_t>> heads;
  std::vector<const void*> pointers;
  std::vector<int32_t> number, classes;
  std::vector<float> boxes, scores;

  // Allocates heads and outputs for the parameters; `value(i)` gives the heads' elements.
  template <typename Value>
  void fill(Value value) {
    const size_t element = dtype == AFDET_FLOAT16 ? 2 : 4;
    size_t counter = 0;
    heads.clear();
    pointers.clear();
    for (int32_t head = 0; head < 2 * params.num_levels; ++head) {
      const int32_t stride = params.strides[head % params.num_levels];
      const size_t points =
          static_cast<size_t>(params.height / stride) * static_cast<size_t>(params.width / stride);
      const size_t depth = head < params.num_levels ? static_cast<size_t>(params.num_classes) : 4;
      const size_t count = static_cast<size_t>(batch) * depth * points;
      std::vector<uint8_t> bytes(count * element);
      for (size_t i = 0; i < count; ++i) {
        const float number_here = value(counter++, head >= params.num_levels);
        if (dtype == AFDET_FLOAT16) {
          const afdet::Half half = afdet::to_half(number_here);
          std::memcpy(bytes.data() + 2 * i, &half, 2);
        } else {
          std::memcpy(bytes.data() + 4 * i, &number_here, 4);
        }
      }
      heads.push_back(std::move(bytes));
    }
    for (const std::vector<uint8_t>& head : heads) pointers.push_back(head.data());
    const size_t rows = static_cast<size_t>(batch) * static_cast<size_t>(params.max_detections);
    number.assign(static_cast<size_t>(batch), -7);
    classes.assign(rows, -7);
    scores.assign(rows, -7.0f);
    boxes.assign(rows * 4, -7.0f);
  }

  AfdetDetections out() { return {number.data(), boxes.data(), scores.data(), classes.data()}; }
};

inline AfdetParams make_params(int32_t classes, int32_t height, int32_t width, int32_t levels) {
  AfdetParams params{};
  params.struct_size = sizeof params;
  params.num_levels = levels;
  params.num_classes = classes;
  params.height = height;
  params.width = width;
  for (int32_t level = 0; level < levels; ++level) params.strides[level] = 8 << level;
  params.candidates_per_level = 1000;
  params.max_detections = 100;
  params.regression_scale = 4.0f;
  params.score_threshold = 0.05f;
  params.nms_iou = 0.5f;
  return params;
}

}  // namespace afdet_test

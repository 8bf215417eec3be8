// Inputs of tests and fuzzers for every implementation: parameters, their heads, and memory for the
// results, each of exactly its size.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "afdet/cuda.h"
#include "afdet/host.h"

namespace afdet_test {

// The float value of a half, by the standard's formula.
inline float half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  float value = std::numeric_limits<float>::infinity();
  if (exponent == 31 && fraction != 0) value = std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) value = std::ldexp(static_cast<float>(fraction), -24);
  if (exponent > 0 && exponent < 31) {
    value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

// The half nearest to a number, found among all halves of its sign; ties to even.
inline uint16_t nearest_half(float value) {
  if (value != value) return 0x7E00;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(static_cast<double>(value));
  // Infinity takes the place of the next number.
  const auto number = [](int bits) {
    return bits == 0x7C00 ? 65536.0 : static_cast<double>(half_value(static_cast<uint16_t>(bits)));
  };
  int low = 0;
  int high = 0x7C00;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (number(middle) <= size) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  if (low < 0x7C00) {
    const double below = size - number(low);
    const double above = number(low + 1) - size;
    if (above < below || (above == below && low % 2 != 0)) ++low;
  }
  return static_cast<uint16_t>(sign | low);
}

struct Problem {
  AfdetParams params{};
  int32_t dtype = AFDET_FLOAT32;
  int32_t batch = 1;
  // For every head, its numbers, and its bytes for the libraries.
  std::vector<std::vector<float>> values;
  std::vector<std::vector<uint8_t>> bytes;

  size_t points(int level) const {
    const int32_t stride = params.strides[level];
    return static_cast<size_t>(params.height / stride) * static_cast<size_t>(params.width / stride);
  }

  std::vector<const void*> pointers() const {
    std::vector<const void*> result;
    for (const std::vector<uint8_t>& head : bytes) result.push_back(head.data());
    return result;
  }

  // Calls `value(is_box)` for every number, head by head.
  template <typename F>
  void fill(F&& value) {
    values.clear();
    bytes.clear();
    for (const bool is_box : {false, true}) {
      for (int level = 0; level < params.num_levels; ++level) {
        const size_t depth = is_box ? 4 : static_cast<size_t>(params.num_classes);
        std::vector<float> head(static_cast<size_t>(batch) * depth * points(level));
        for (float& number : head) number = value(is_box);
        store(std::move(head));
      }
    }
  }

 private:
  void store(std::vector<float> head) {
    std::vector<uint8_t> memory(head.size() * (dtype == AFDET_FLOAT16 ? 2 : 4));
    for (size_t i = 0; i < head.size(); ++i) {
      if (dtype == AFDET_FLOAT16) {
        const uint16_t half = nearest_half(head[i]);
        head[i] = half_value(half);
        std::memcpy(&memory[2 * i], &half, 2);
      } else {
        std::memcpy(&memory[4 * i], &head[i], 4);
      }
    }
    values.push_back(std::move(head));
    bytes.push_back(std::move(memory));
  }
};

inline Problem make_problem(int32_t classes, int32_t height, int32_t width,
                            const std::vector<int32_t>& strides = {8, 16, 32, 64, 128}) {
  Problem problem;
  AfdetParams& params = problem.params;
  params.struct_size = sizeof params;
  params.num_levels = static_cast<int32_t>(strides.size());
  params.num_classes = classes;
  params.height = height;
  params.width = width;
  std::copy(strides.begin(), strides.end(), params.strides);
  params.candidates_per_level = 1000;
  params.max_detections = 100;
  params.regression_scale = 4.0f;
  params.score_threshold = 0.05f;
  params.nms_iou = 0.5f;
  return problem;
}

// Logits around `mean`, distances in 0..1.2. If `step` is not 0, values are its multiples, so that
// many tie. A share of `odd` is absurd.
inline void fill_random(Problem* problem, uint32_t seed, float mean, float step = 0.0f,
                        double odd = 0.0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> logit(mean, 1.5f);
  std::uniform_real_distribution<float> distance(0.0f, 1.2f);
  std::uniform_real_distribution<double> chance(0.0, 1.0);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> strange = {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity,
                                      0.0f,          -0.0f,          65504.0f,  -65504.0f,
                                      6e-8f,         1e-45f,         3.4e38f,   -3.4e38f};
  problem->fill([&](bool is_box) {
    if (chance(random) < odd) return strange[random() % strange.size()];
    const float value = is_box ? distance(random) : logit(random);
    return step == 0.0f ? value : std::round(value / step) * step;
  });
}

struct Results {
  std::vector<int32_t> count;
  std::vector<float> boxes, scores;
  std::vector<int32_t> classes;

  // Filled with impossible results, so that unwritten values show.
  explicit Results(const Problem& problem) {
    const size_t images = static_cast<size_t>(problem.batch);
    const size_t rows = images * static_cast<size_t>(problem.params.max_detections);
    count.assign(images, kUntouched);
    boxes.assign(rows * 4, kUntouched);
    scores.assign(rows, kUntouched);
    classes.assign(rows, kUntouched);
  }

  AfdetDetections out() { return {count.data(), boxes.data(), scores.data(), classes.data()}; }

  bool untouched() const {
    const auto is = [](auto value) { return value == kUntouched; };
    return std::all_of(count.begin(), count.end(), is) &&
           std::all_of(classes.begin(), classes.end(), is) &&
           std::all_of(boxes.begin(), boxes.end(), is) &&
           std::all_of(scores.begin(), scores.end(), is);
  }

  friend bool operator==(const Results& a, const Results& b) {
    return a.count == b.count && a.classes == b.classes && a.boxes == b.boxes &&
           a.scores == b.scores;
  }

 private:
  static constexpr int16_t kUntouched = -77;
};

inline AfdetStatus run_host(const Problem& problem, Results* results, int32_t threads = 1,
                            const uint8_t* wanted = nullptr) {
  const std::vector<const void*> heads = problem.pointers();
  const AfdetDetections out = results->out();
  return afdet_host_detect(&problem.params, heads.data(), problem.dtype, problem.batch, wanted,
                           threads, &out);
}

// Runs the CUDA kernels' source on the CPU.
inline AfdetStatus run_emulated(const Problem& problem, Results* results) {
  size_t bytes = 0;
  const AfdetStatus status =
      afdet_cuda_detect_workspace(&problem.params, problem.dtype, problem.batch, &bytes);
  if (status != AFDET_OK) return status;
  constexpr std::align_val_t kAlignment{256};
  void* workspace = ::operator new(bytes, kAlignment);
  const std::vector<const void*> heads = problem.pointers();
  const AfdetDetections out = results->out();
  const AfdetStatus found = afdet_cuda_detect(&problem.params, heads.data(), problem.dtype,
                                              problem.batch, &out, workspace, bytes, nullptr);
  ::operator delete(workspace, kAlignment);
  return found;
}

}  // namespace afdet_test

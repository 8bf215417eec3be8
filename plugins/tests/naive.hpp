// Decode + NMS written directly from the definition, without code of the libraries.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include "problem.hpp"

namespace afdet_test {

struct Candidate {
  float logit;
  int level;
  size_t point;
  int32_t class_id;
  std::array<float, 4> box;

  auto order() const { return std::make_tuple(-logit, level, point, class_id); }
};

inline float naive_iou(const std::array<float, 4>& a, const std::array<float, 4>& b) {
  const float width = std::max(0.0f, std::min(a[2], b[2]) - std::max(a[0], b[0]));
  const float height = std::max(0.0f, std::min(a[3], b[3]) - std::max(a[1], b[1]));
  const float inter = width * height;
  const float area_a = (a[2] - a[0]) * (a[3] - a[1]);
  const float area_b = (b[2] - b[0]) * (b[3] - b[1]);
  return inter / (area_a + area_b - inter);
}

// False if the box is not finite, or is empty after clipping.
inline bool naive_box(const Problem& problem, size_t image, int level, size_t point,
                      std::array<float, 4>* box) {
  const AfdetParams& params = problem.params;
  const size_t points = problem.points(level);
  const size_t columns = static_cast<size_t>(params.width / params.strides[level]);
  const std::vector<float>& reg = problem.values[static_cast<size_t>(params.num_levels + level)];
  const float stride = static_cast<float>(params.strides[level]);
  const float unit = params.regression_scale * stride;
  const float x = (static_cast<float>(point % columns) + 0.5f) * stride;
  const float y = (static_cast<float>(point / columns) + 0.5f) * stride;
  const auto distance = [&](size_t side) {
    return reg[(image * 4 + side) * points + point] * unit;
  };
  *box = {x - distance(0), y - distance(1), x + distance(2), y + distance(3)};
  for (size_t i = 0; i < 4; ++i) {
    float& corner = (*box)[i];
    if (!std::isfinite(corner)) return false;
    const float side = static_cast<float>(i % 2 == 0 ? params.width : params.height);
    corner = std::min(std::max(corner, 0.0f), side);
  }
  return (*box)[2] > (*box)[0] && (*box)[3] > (*box)[1];
}

inline std::vector<Candidate> naive_level(const Problem& problem, size_t image, int level,
                                          const uint8_t* wanted) {
  const AfdetParams& params = problem.params;
  const double t = static_cast<double>(params.score_threshold);
  // Division by zero gives the right infinity. A logit of -inf is never above it.
  const float threshold = static_cast<float>(std::log(t / (1.0 - t)));
  const size_t points = problem.points(level);
  const size_t classes = static_cast<size_t>(params.num_classes);
  std::vector<Candidate> found;
  for (size_t k = 0; k < classes; ++k) {
    if (wanted != nullptr && wanted[k] == 0) continue;
    for (size_t point = 0; point < points; ++point) {
      const float logit =
          problem.values[static_cast<size_t>(level)][(image * classes + k) * points + point];
      if (logit > threshold) found.push_back({logit, level, point, static_cast<int32_t>(k), {}});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Candidate& a, const Candidate& b) { return a.order() < b.order(); });
  const size_t most = static_cast<size_t>(params.candidates_per_level);
  if (found.size() > most) found.resize(most);
  std::vector<Candidate> sound;
  for (Candidate& candidate : found) {
    if (naive_box(problem, image, level, candidate.point, &candidate.box)) {
      sound.push_back(candidate);
    }
  }
  return sound;
}

inline Results naive_detect(const Problem& problem, const uint8_t* wanted = nullptr) {
  const AfdetParams& params = problem.params;
  const size_t most = static_cast<size_t>(params.max_detections);
  Results results(problem);
  std::fill(results.boxes.begin(), results.boxes.end(), 0.0f);
  std::fill(results.scores.begin(), results.scores.end(), 0.0f);
  std::fill(results.classes.begin(), results.classes.end(), -1);
  for (size_t image = 0; image < static_cast<size_t>(problem.batch); ++image) {
    std::vector<Candidate> all;
    for (int level = 0; level < params.num_levels; ++level) {
      const std::vector<Candidate> some = naive_level(problem, image, level, wanted);
      all.insert(all.end(), some.begin(), some.end());
    }
    std::sort(all.begin(), all.end(),
              [](const Candidate& a, const Candidate& b) { return a.order() < b.order(); });
    std::vector<Candidate> kept;
    for (const Candidate& candidate : all) {
      if (kept.size() == most) break;
      const bool removed = std::any_of(kept.begin(), kept.end(), [&](const Candidate& other) {
        return (params.class_agnostic != 0 || other.class_id == candidate.class_id) &&
               naive_iou(other.box, candidate.box) > params.nms_iou;
      });
      if (!removed) kept.push_back(candidate);
    }
    results.count[image] = static_cast<int32_t>(kept.size());
    for (size_t i = 0; i < kept.size(); ++i) {
      const size_t row = image * most + i;
      std::copy(kept[i].box.begin(), kept[i].box.end(), &results.boxes[row * 4]);
      results.scores[row] =
          static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(kept[i].logit))));
      results.classes[row] = kept[i].class_id;
    }
  }
  return results;
}

}  // namespace afdet_test

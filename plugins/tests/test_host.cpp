// libafdet_host against a few dozen plain lines, and the emulated kernels against it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "afdet/cuda.h"
#include "afdet/host.h"
#include "check.hpp"
#include "core/box.hpp"
#include "core/params.hpp"
#include "problem.hpp"

extern "C" void afdet_emulated_set_order(uint32_t seed);

namespace {

using afdet_test::make_params;
using afdet_test::Problem;

struct Found {
  float logit;
  int32_t level, point, class_id;
  afdet::Box box;
  bool valid;
};

// One image, step by step as the architecture says it. FP32 heads.
std::vector<Found> plain_detect(const Problem& problem, int32_t image) {
  afdet::Plan plan{};
  afdet::make_plan(&problem.params, &plan);
  const auto order = [](const Found& a, const Found& b) {
    return std::tie(b.logit, a.level, a.point, a.class_id) <
           std::tie(a.logit, b.level, b.point, b.class_id);
  };
  std::vector<Found> all;
  for (int32_t level = 0; level < plan.num_levels; ++level) {
    const int32_t points = plan.levels[level].points();
    const float* cls =
        reinterpret_cast<const float*>(problem.heads[static_cast<size_t>(level)].data()) +
        image * points * plan.num_classes;
    const float* reg = reinterpret_cast<const float*>(
                           problem.heads[static_cast<size_t>(plan.num_levels + level)].data()) +
                       image * points * 4;
    std::vector<Found> here;
    for (int32_t c = 0; c < plan.num_classes; ++c) {
      for (int32_t p = 0; p < points; ++p) {
        const float logit = cls[c * points + p];
        if (logit > plan.logit_threshold) here.push_back({logit, level, p, c, {}, false});
      }
    }
    std::sort(here.begin(), here.end(), order);
    here.resize(std::min(here.size(), static_cast<size_t>(plan.candidates_per_level)));
    for (Found& found : here) {
      const int32_t p = found.point;
      found.valid =
          afdet::decode_box(plan.levels[level].x(p), plan.levels[level].y(p), reg[p],
                            reg[points + p], reg[2 * points + p], reg[3 * points + p],
                            plan.levels[level].scale, plan.width, plan.height, &found.box);
      if (found.valid) all.push_back(found);
    }
  }
  std::sort(all.begin(), all.end(), order);
  std::vector<Found> kept;
  for (const Found& found : all) {
    bool stays = true;
    for (const Found& other : kept) {
      if ((plan.class_agnostic || other.class_id == found.class_id) &&
          afdet::overlaps(other.box, afdet::area(other.box), found.box, afdet::area(found.box),
                          plan.nms_iou)) {
        stays = false;
      }
    }
    if (stays) kept.push_back(found);
  }
  kept.resize(std::min(kept.size(), static_cast<size_t>(plan.max_detections)));
  return kept;
}

void check_against_plain(Problem& problem, int32_t threads) {
  const AfdetDetections out = problem.out();
  CHECK(afdet_host_detect(&problem.params, problem.pointers.data(), problem.dtype, problem.batch,
                          nullptr, threads, &out) == AFDET_OK);
  const size_t most = static_cast<size_t>(problem.params.max_detections);
  for (int32_t image = 0; image < problem.batch; ++image) {
    const std::vector<Found> want = plain_detect(problem, image);
    const size_t first = static_cast<size_t>(image) * most;
    CHECK(problem.number[static_cast<size_t>(image)] == static_cast<int32_t>(want.size()));
    for (size_t i = 0; i < most; ++i) {
      const bool used = i < want.size();
      CHECK(problem.classes[first + i] == (used ? want[i].class_id : -1));
      CHECK(problem.boxes[4 * (first + i)] == (used ? want[i].box.x1 : 0.0f));
      CHECK(problem.boxes[4 * (first + i) + 3] == (used ? want[i].box.y2 : 0.0f));
      CHECK(problem.scores[first + i] == (used ? afdet::sigmoid(want[i].logit) : 0.0f));
    }
  }
}

// Random heads; some values repeat, so that there are ties.
Problem random_problem(uint32_t seed, int32_t dtype) {
  std::mt19937 random(seed);
  const auto pick = [&random](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  Problem problem;
  problem.dtype = dtype;
  problem.batch = pick(1, 4);
  problem.params = make_params(pick(1, 9), 64 * pick(1, 2), 64 * pick(1, 3), pick(1, 4));
  problem.params.candidates_per_level = pick(0, 1) != 0 ? 1000 : pick(1, 30);
  problem.params.max_detections = pick(0, 1) != 0 ? 100 : pick(1, 500);
  problem.params.class_agnostic = pick(0, 1);
  problem.params.nms_iou = 0.25f * static_cast<float>(pick(0, 4));
  problem.params.score_threshold = 0.25f * static_cast<float>(pick(0, 3));
  std::normal_distribution<float> logit(-1.0f, 2.0f);
  std::uniform_real_distribution<float> distance(-0.1f, 1.5f);
  const bool coarse = pick(0, 1) != 0;
  problem.fill([&](size_t i, bool is_box) {
    if (i % 97 == 0) return std::numeric_limits<float>::quiet_NaN();
    if (i % 89 == 0) return std::numeric_limits<float>::infinity();
    if (i % 83 == 0) return -std::numeric_limits<float>::infinity();
    const float value = is_box ? distance(random) : logit(random);
    return coarse ? std::round(value * 4.0f) / 4.0f : value;
  });
  return problem;
}

TEST(equals_plain_code) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Problem problem = random_problem(seed, AFDET_FLOAT32);
    check_against_plain(problem, 1 + static_cast<int32_t>(seed % 3));
  }
}

TEST(more_threads_than_images) {
  Problem problem = random_problem(7, AFDET_FLOAT32);
  check_against_plain(problem, 64);
}

TEST(a_guess_that_is_too_high_costs_nothing_but_time) {
  // Class 0 is crowded, the others nearly empty: what the scan learns from its start misleads it.
  Problem problem;
  problem.batch = 1;
  problem.params = make_params(40, 256, 256, 1);
  problem.params.candidates_per_level = 100;
  problem.params.max_detections = 1000;
  std::mt19937 random(3);
  std::normal_distribution<float> crowded(3.0f, 1.0f);
  std::normal_distribution<float> empty(-9.0f, 1.0f);
  problem.fill([&](size_t i, bool is_box) {
    if (is_box) return 0.3f;
    return i < 210 ? crowded(random) : empty(random);
  });
  check_against_plain(problem, 1);
  problem.fill([&](size_t i, bool is_box) {
    if (is_box) return 0.3f;
    return i % 20 == 0 ? 100.0f + static_cast<float>(i % 7) : crowded(random);
  });
  check_against_plain(problem, 1);
}

TEST(wanted_classes_equal_heads_without_the_others) {
  Problem problem = random_problem(11, AFDET_FLOAT32);
  problem.params.num_classes = 6;
  problem.fill([](size_t i, bool is_box) {
    return is_box ? 0.4f : static_cast<float>(i * 7919 % 1000) / 100.0f - 5.0f;
  });
  const std::vector<uint8_t> wanted = {0, 1, 0, 0, 5, 0};
  const AfdetDetections out = problem.out();
  CHECK(afdet_host_detect(&problem.params, problem.pointers.data(), problem.dtype, problem.batch,
                          wanted.data(), 1, &out) == AFDET_OK);
  const std::vector<int32_t> classes = problem.classes;
  const std::vector<float> boxes = problem.boxes;
  // The same with the others' logits out of the way.
  for (int32_t level = 0; level < problem.params.num_levels; ++level) {
    float* cls = reinterpret_cast<float*>(problem.heads[static_cast<size_t>(level)].data());
    const size_t count = problem.heads[static_cast<size_t>(level)].size() / 4;
    const size_t points = count / static_cast<size_t>(6 * problem.batch);
    for (size_t i = 0; i < count; ++i) {
      if (wanted[i / points % 6] == 0) cls[i] = -std::numeric_limits<float>::infinity();
    }
  }
  CHECK(afdet_host_detect(&problem.params, problem.pointers.data(), problem.dtype, problem.batch,
                          nullptr, 1, &out) == AFDET_OK);
  CHECK(problem.classes == classes);
  CHECK(problem.boxes == boxes);
  CHECK(std::count(classes.begin(), classes.end(), 4) > 0);
}

TEST(emulated_kernels_equal_the_host_in_any_order) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Problem problem = random_problem(seed, seed % 2 == 0 ? AFDET_FLOAT32 : AFDET_FLOAT16);
    const AfdetDetections out = problem.out();
    CHECK(afdet_host_detect(&problem.params, problem.pointers.data(), problem.dtype, problem.batch,
                            nullptr, 1, &out) == AFDET_OK);
    Problem other = problem;
    for (size_t i = 0; i < other.heads.size(); ++i) other.pointers[i] = other.heads[i].data();
    size_t bytes = 0;
    CHECK(afdet_cuda_detect_workspace(&other.params, other.dtype, other.batch, &bytes) == AFDET_OK);
    std::vector<uint8_t> memory(bytes + 256);
    void* workspace =
        memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256) % 256;
    for (const uint32_t order : {0u, 1u, 2u + seed}) {
      afdet_emulated_set_order(order);
      const AfdetDetections other_out = other.out();
      CHECK(afdet_cuda_detect(&other.params, other.pointers.data(), other.dtype, other.batch,
                              &other_out, workspace, bytes, nullptr) == AFDET_OK);
      CHECK(other.number == problem.number);
      CHECK(other.classes == problem.classes);
      CHECK(other.boxes == problem.boxes);
      CHECK(other.scores == problem.scores);
    }
  }
}

TEST(bad_calls_are_refused_and_touch_nothing) {
  Problem problem = random_problem(5, AFDET_FLOAT32);
  const Problem before = problem;
  AfdetDetections out = problem.out();
  const void* const* heads = problem.pointers.data();
  const AfdetParams* params = &problem.params;
  CHECK(afdet_host_detect(nullptr, heads, 0, 1, nullptr, 1, &out) == AFDET_ERROR_NULL_POINTER);
  CHECK(afdet_host_detect(params, nullptr, 0, 1, nullptr, 1, &out) == AFDET_ERROR_NULL_POINTER);
  CHECK(afdet_host_detect(params, heads, 0, 1, nullptr, 1, nullptr) == AFDET_ERROR_NULL_POINTER);
  CHECK(afdet_host_detect(params, heads, 2, 1, nullptr, 1, &out) == AFDET_ERROR_DTYPE);
  CHECK(afdet_host_detect(params, heads, 0, -1, nullptr, 1, &out) == AFDET_ERROR_BATCH);
  CHECK(afdet_host_detect(params, heads, 0, 1, nullptr, 0, &out) == AFDET_ERROR_BATCH);
  CHECK(afdet_host_detect(params, heads, 0, 0, nullptr, 1, nullptr) == AFDET_OK);
  std::vector<const void*> holed = problem.pointers;
  holed.back() = nullptr;
  CHECK(afdet_host_detect(params, holed.data(), 0, 1, nullptr, 1, &out) ==
        AFDET_ERROR_NULL_POINTER);
  out.scores = nullptr;
  CHECK(afdet_host_detect(params, heads, 0, 1, nullptr, 1, &out) == AFDET_ERROR_NULL_POINTER);
  CHECK(problem.number == before.number && problem.boxes == before.boxes);
}

}  // namespace

int main() { return afdet_test::run_all(); }

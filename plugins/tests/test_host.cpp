// Compares libafdet_host with the naive reference, and tests its refusals.
#include <algorithm>
#include <vector>

#include "check.hpp"
#include "naive.hpp"
#include "problem.hpp"

namespace afdet_test {
namespace {

bool equals_naive(const Problem& problem, int32_t threads = 1, const uint8_t* wanted = nullptr) {
  Results results(problem);
  return run_host(problem, &results, threads, wanted) == AFDET_OK &&
         results == naive_detect(problem, wanted);
}

TEST(the_library_says_what_it_is) {
  CHECK(afdet_host_abi_version() == AFDET_ABI_VERSION);
  CHECK(afdet_host_build_info() != nullptr);
}

TEST(one_box_by_hand) {
  Problem problem = make_problem(3, 128, 256);
  problem.fill([](bool is_box) { return is_box ? 0.25f : -9.0f; });
  // Level 1 (stride 16), row 2, column 3: point (56, 40), 64 pixels per unit; class 2.
  const float logit = 0.0f;
  std::memcpy(&problem.bytes[1][4 * (2 * 8 * 16 + 2 * 16 + 3)], &logit, sizeof logit);
  Results results(problem);
  CHECK(run_host(problem, &results) == AFDET_OK);
  CHECK(results.count[0] == 1);
  CHECK(results.classes[0] == 2 && results.scores[0] == 0.5f);
  const float want[] = {40.0f, 24.0f, 72.0f, 56.0f};
  CHECK(std::equal(want, want + 4, results.boxes.begin()));
  CHECK(results.classes[1] == -1 && results.scores[1] == 0.0f && results.boxes[4] == 0.0f);
}

TEST(equals_naive) {
  const std::vector<std::vector<int32_t>> levels = {
      {8, 16, 32, 64, 128}, {64}, {1, 2, 4}, {1, 2, 4, 8, 16, 32, 64, 128}};
  uint32_t seed = 0;
  for (const std::vector<int32_t>& strides : levels) {
    for (const int32_t dtype : {AFDET_FLOAT32, AFDET_FLOAT16}) {
      for (const float mean : {-6.0f, -2.0f, 1.0f}) {
        for (const float step : {0.0f, 1.0f}) {
          const bool fine = strides[0] == 1;
          Problem problem = make_problem(fine ? 1 : 5, 128, fine ? 128 : 256, strides);
          problem.dtype = dtype;
          problem.batch = 2;
          problem.params.class_agnostic = static_cast<int32_t>(seed % 2);
          problem.params.candidates_per_level = seed % 3 == 0 ? 50 : 1000;
          problem.params.score_threshold = seed % 5 == 0 ? 0.0f : 0.05f;
          problem.params.nms_iou = seed % 4 == 0 ? 0.25f : 0.5f;
          problem.params.max_detections = seed % 7 == 0 ? 3 : 100;
          fill_random(&problem, seed, mean, step, seed % 3 == 0 ? 0.3 : 0.0);
          ++seed;
          CHECK(equals_naive(problem));
        }
      }
    }
  }
}

// Far more candidates than are kept, rising and falling along the scan, and in plateaus: the worst
// cases for the host's estimate of the cut.
TEST(many_candidates) {
  for (const int32_t dtype : {AFDET_FLOAT32, AFDET_FLOAT16}) {
    for (const int shape : {0, 1, 2, 3, 4}) {
      Problem problem = make_problem(40, 256, 256);
      problem.dtype = dtype;
      problem.params.candidates_per_level = 300;
      int index = 0;
      problem.fill([&](bool is_box) {
        if (is_box) return 0.3f;
        const float place = static_cast<float>(++index % 40960) / 40960.0f;
        switch (shape) {
          case 0:
            return 4.0f * place;
          case 1:
            return -4.0f * place + 3.0f;
          case 2:
            return place < 0.9f ? 1.0f : 2.0f;
          case 3:  // The last classes' points come first among ties; minus zero equals zero.
            return place < 0.9f ? 0.0f : -0.0f;
          default:  // An estimate from evenly spaced values is wrong: only these are high.
            return index % 20 == 1 ? 5.0f + place : -2.0f;
        }
      });
      CHECK(equals_naive(problem));
    }
  }
}

TEST(threads) {
  Problem problem = make_problem(4, 128, 128);
  problem.batch = 5;
  fill_random(&problem, 3, -2.0f);
  for (const int32_t threads : {1, 2, 3, 5, 6, 64}) CHECK(equals_naive(problem, threads));
  Problem single = make_problem(4, 128, 128);
  fill_random(&single, 4, -2.0f);
  CHECK(equals_naive(single, INT32_MAX));
}

TEST(wanted_classes) {
  Problem problem = make_problem(6, 128, 256);
  problem.params.candidates_per_level = 20;
  fill_random(&problem, 5, -1.0f);
  const uint8_t some[] = {0, 1, 0, 0, 255, 0};
  CHECK(equals_naive(problem, 1, some));
  const uint8_t all[] = {1, 1, 1, 1, 1, 1};
  Results with(problem);
  Results without(problem);
  CHECK(run_host(problem, &with, 1, all) == AFDET_OK);
  CHECK(run_host(problem, &without) == AFDET_OK);
  CHECK(with == without && with.count[0] > 0);
  const uint8_t none[6] = {};
  Results empty(problem);
  CHECK(run_host(problem, &empty, 1, none) == AFDET_OK);
  CHECK(empty.count[0] == 0 && empty.classes[0] == -1);
}

TEST(an_empty_batch_touches_nothing) {
  Problem problem = make_problem(2, 128, 128);
  problem.batch = 0;
  CHECK(afdet_host_detect(&problem.params, nullptr, AFDET_FLOAT32, 0, nullptr, 1, nullptr) ==
        AFDET_OK);
}

TEST(refusals_touch_nothing) {
  Problem problem = make_problem(2, 128, 128);
  fill_random(&problem, 6, 0.0f);
  const std::vector<const void*> heads = problem.pointers();
  Results results(problem);
  const AfdetDetections out = results.out();
  const auto refuses = [&](AfdetStatus want, const AfdetParams* params, const void* const* from,
                           int32_t dtype, int32_t batch, int32_t threads,
                           const AfdetDetections* to) {
    return afdet_host_detect(params, from, dtype, batch, nullptr, threads, to) == want &&
           results.untouched();
  };
  const AfdetParams& good = problem.params;
  const void* const* from = heads.data();
  CHECK(refuses(AFDET_ERROR_NULL_POINTER, nullptr, from, 0, 1, 1, &out));
  CHECK(refuses(AFDET_ERROR_NULL_POINTER, &good, nullptr, 0, 1, 1, &out));
  CHECK(refuses(AFDET_ERROR_NULL_POINTER, &good, from, 0, 1, 1, nullptr));
  for (const int32_t dtype : {-1, 2, INT32_MIN, INT32_MAX}) {
    CHECK(refuses(AFDET_ERROR_DTYPE, &good, from, dtype, 1, 1, &out));
  }
  for (const int32_t bad : {-1, INT32_MIN}) {
    CHECK(refuses(AFDET_ERROR_BATCH, &good, from, 0, bad, 1, &out));
    CHECK(refuses(AFDET_ERROR_BATCH, &good, from, 0, 1, bad, &out));
  }
  CHECK(refuses(AFDET_ERROR_BATCH, &good, from, 0, 1, 0, &out));
  for (size_t i = 0; i < heads.size(); ++i) {
    std::vector<const void*> holed = heads;
    holed[i] = nullptr;
    CHECK(refuses(AFDET_ERROR_NULL_POINTER, &good, holed.data(), 0, 1, 1, &out));
  }
  const AfdetDetections holed[] = {{nullptr, out.boxes, out.scores, out.classes},
                                   {out.num_detections, nullptr, out.scores, out.classes},
                                   {out.num_detections, out.boxes, nullptr, out.classes},
                                   {out.num_detections, out.boxes, out.scores, nullptr}};
  for (const AfdetDetections& to : holed) {
    CHECK(refuses(AFDET_ERROR_NULL_POINTER, &good, from, 0, 1, 1, &to));
  }
  AfdetParams bad = good;
  bad.nms_iou = 2.0f;
  CHECK(refuses(AFDET_ERROR_THRESHOLDS, &bad, from, 0, 1, 1, &out));
}

}  // namespace
}  // namespace afdet_test

int main() { return afdet_test::run_all(); }

// Compares the CUDA kernels' source, run on the CPU, with libafdet_host. Under sanitizers, this
// finds memory errors of the kernels.
#include <utility>
#include <vector>

#include "check.hpp"
#include "emulated/order.hpp"
#include "problem.hpp"

namespace afdet_test {
namespace {

constexpr uint32_t kOrders[] = {0, 1, 7, 1234567};

// Runs in every order of threads.
void check_equals_host(const Problem& problem) {
  Results want(problem);
  CHECK(run_host(problem, &want) == AFDET_OK);
  for (const uint32_t order : kOrders) {
    afdet_emulated_set_order(order);
    Results found(problem);
    CHECK(run_emulated(problem, &found) == AFDET_OK);
    CHECK(found == want);
  }
}

TEST(random_heads) {
  const std::vector<std::vector<int32_t>> levels = {
      {8, 16, 32, 64, 128}, {32}, {1, 2, 4, 8, 16, 32, 64, 128}};
  uint32_t seed = 100;
  for (const std::vector<int32_t>& strides : levels) {
    for (const int32_t dtype : {AFDET_FLOAT32, AFDET_FLOAT16}) {
      for (const float mean : {-6.0f, -2.0f, 1.0f}) {
        const bool fine = strides[0] == 1;
        // Odd numbers of pairs, so that images start at addresses unaligned for vectors.
        Problem problem = make_problem(fine ? 1 : 3, 128, 128, strides);
        problem.dtype = dtype;
        problem.batch = 3;
        problem.params.class_agnostic = static_cast<int32_t>(seed % 2);
        problem.params.score_threshold = seed % 3 == 0 ? 0.0f : 0.05f;
        fill_random(&problem, seed, mean, seed % 2 == 0 ? 0.5f : 0.0f, 0.1);
        ++seed;
        check_equals_host(problem);
      }
    }
  }
}

// More candidates than a list holds, in every size of sort; more detections than shared memory
// holds.
TEST(sizes) {
  for (const auto& [most, detections] :
       std::vector<std::pair<int32_t, int32_t>>{{1, 100}, {1000, 384}, {1025, 385}, {4096, 1000}}) {
    Problem problem = make_problem(40, 256, 256);
    problem.dtype = most % 2 == 0 ? AFDET_FLOAT16 : AFDET_FLOAT32;
    problem.params.candidates_per_level = most;
    problem.params.max_detections = detections;
    problem.params.nms_iou = 0.9f;
    fill_random(&problem, 7, 1.0f, most == 4097 ? 0.25f : 0.0f);
    check_equals_host(problem);
  }
}

TEST(all_equal) {
  Problem problem = make_problem(40, 256, 256);
  problem.fill([](bool is_box) { return is_box ? 0.4f : 1.5f; });
  check_equals_host(problem);
}

TEST(workspace) {
  Problem problem = make_problem(80, 512, 512);
  const auto needed = [&](int32_t dtype, int32_t batch) {
    size_t bytes = 0;
    CHECK(afdet_cuda_detect_workspace(&problem.params, dtype, batch, &bytes) == AFDET_OK);
    return bytes;
  };
  for (const int32_t dtype : {AFDET_FLOAT32, AFDET_FLOAT16}) {
    CHECK(needed(dtype, 1) <= size_t{1} << 20);
    CHECK(needed(dtype, 16) <= 16 * needed(dtype, 1));
  }
  CHECK(afdet_cuda_detect_workspace(&problem.params, AFDET_FLOAT32, 1, nullptr) ==
        AFDET_ERROR_NULL_POINTER);
  problem.params.num_levels = 0;
  size_t bytes = 77;
  CHECK(afdet_cuda_detect_workspace(&problem.params, AFDET_FLOAT32, 1, &bytes) ==
        AFDET_ERROR_LEVELS);
  CHECK(bytes == 77);
}

}  // namespace
}  // namespace afdet_test

int main() { return afdet_test::run_all(); }

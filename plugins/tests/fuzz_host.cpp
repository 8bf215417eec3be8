// Fuzzes the C ABI: any parameters, any logits. What is refused must leave the outputs alone, what
// is taken must be within its limits; the sanitizers watch the rest.
//
// With Clang this is a libFuzzer target; else a driver that feeds it seeded random bytes.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "afdet/host.h"
#include "core/params.hpp"
#include "problem.hpp"

namespace {

// Takes numbers off the input's front; zeros when it is used up.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  T take() {
    T value{};
    const size_t count = sizeof value < size_ ? sizeof value : size_;
    std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

  // Mostly something sensible, sometimes anything.
  int32_t number(int32_t low, int32_t high) {
    const uint8_t choice = take<uint8_t>();
    if (choice > 250) return take<int32_t>();
    return low + choice % (high - low + 1);
  }

  // Pixels: a few cells of 32, or anything.
  int32_t side() {
    const uint8_t choice = take<uint8_t>();
    return choice > 250 ? take<int32_t>() : 32 + 32 * (choice % 3);
  }

  float share() {
    const uint8_t choice = take<uint8_t>();
    return choice > 250 ? take<float>() : static_cast<float>(choice) / 250.0f;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  afdet_test::Problem problem;
  problem.params = afdet_test::make_params(bytes.number(1, 5), bytes.side(), bytes.side(), 1);
  problem.params.num_levels = bytes.number(1, 3);
  for (int32_t level = 1; level < 3; ++level) {
    problem.params.strides[level] = bytes.number(0, 9) == 9 ? bytes.take<int32_t>() : 8 << level;
  }
  problem.params.candidates_per_level = bytes.number(1, 60);
  problem.params.max_detections = bytes.number(1, 60);
  problem.params.class_agnostic = bytes.number(0, 1);
  problem.params.regression_scale = bytes.share() * 8.0f;
  problem.params.score_threshold = bytes.share();
  problem.params.nms_iou = bytes.share();
  if (bytes.number(0, 60) == 60) problem.params.struct_size = bytes.take<uint32_t>();
  problem.dtype = bytes.number(0, 1);
  const int32_t batch = bytes.number(0, 3);
  const int32_t threads = bytes.number(1, 3);
  afdet::Plan plan{};
  const AfdetStatus planned = afdet::make_plan(&problem.params, &plan);
  const bool plausible = planned == AFDET_OK && batch >= 0 && batch <= 3 && problem.dtype >= 0 &&
                         problem.dtype <= 1 && plan.pairs(0) <= 4096 && plan.max_detections <= 4096;
  if (!plausible) {
    // Only calls that must be refused may come without memory.
    if (planned == AFDET_OK && problem.dtype >= 0 && problem.dtype <= 1 && batch >= 0) return 0;
    const AfdetDetections none{};
    const AfdetStatus status =
        afdet_host_detect(&problem.params, nullptr, problem.dtype, batch, nullptr, threads, &none);
    require(status != AFDET_OK);
    return 0;
  }
  problem.batch = batch;
  problem.fill([&bytes](size_t, bool) {
    const uint8_t choice = bytes.take<uint8_t>();
    return choice > 240 ? bytes.take<float>() : static_cast<float>(choice) / 16.0f - 8.0f;
  });
  const AfdetDetections out = problem.out();
  const AfdetStatus status = afdet_host_detect(&problem.params, problem.pointers.data(),
                                               problem.dtype, batch, nullptr, threads, &out);
  require(status == (threads < 1 ? AFDET_ERROR_BATCH : AFDET_OK));
  if (status != AFDET_OK) return 0;
  for (size_t image = 0; image < problem.number.size(); ++image) {
    const int32_t count = problem.number[image];
    require(count >= 0 && count <= problem.params.max_detections);
    for (int32_t i = 0; i < problem.params.max_detections; ++i) {
      const size_t row =
          image * static_cast<size_t>(problem.params.max_detections) + static_cast<size_t>(i);
      const float* box = problem.boxes.data() + 4 * row;
      if (i < count) {
        require(problem.classes[row] >= 0 && problem.classes[row] < problem.params.num_classes);
        require(box[0] >= 0.0f && box[0] < box[2] && box[2] <= plan.width);
        require(box[1] >= 0.0f && box[1] < box[3] && box[3] <= plan.height);
        const bool ordered = i == 0 || problem.scores[row] <= problem.scores[row - 1];
        require(ordered);
      } else {
        require(problem.classes[row] == -1 && problem.scores[row] == 0.0f && box[2] == 0.0f);
      }
    }
  }
  return 0;
}

#if !defined(AFDET_LIBFUZZER)
int main(int count, char** arguments) {
  const int runs = count > 1 ? std::atoi(arguments[1]) : 20000;
  std::mt19937 random(1);
  std::vector<uint8_t> input;
  for (int run = 0; run < runs; ++run) {
    input.resize(random() % 2048);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  return 0;
}
#endif

// A fuzzer of the C ABI. It turns bytes into parameters, most of them valid and some absurd, and
// into heads with few distinct values. For all inputs it checks: no crash; all implementations
// refuse or all accept; refusals do not write; and the host library, the CUDA kernels' source and
// the naive reference agree bit for bit.
//
// With Clang this is a libFuzzer target; otherwise a driver feeds it seeded random bytes.
#include <cstdlib>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/params.hpp"
#include "emulated/order.hpp"
#include "naive.hpp"
#include "problem.hpp"

namespace afdet_test {
namespace {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // Returns zeros after the last byte.
  template <typename T>
  T raw() {
    T value{};
    const size_t count = std::min(sizeof value, size_);
    if (count == 0) return value;  // The pointer of an empty input may be null.
    std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

  uint8_t next() { return raw<uint8_t>(); }

  // One of the valid values, or occasionally any value.
  template <typename T>
  T choose(const std::vector<T>& sound) {
    const uint8_t byte = next();
    if (byte >= 250) return raw<T>();
    return sound[byte % sound.size()];
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

Problem read_params(Bytes* bytes) {
  Problem problem;
  AfdetParams& params = problem.params;
  params.struct_size = bytes->choose<uint32_t>({sizeof params});
  params.num_levels = bytes->choose<int32_t>({3, 1, 2, 4, 8});
  int32_t stride = bytes->choose<int32_t>({4, 1, 2, 8});
  for (int32_t& level : params.strides) {
    level = stride;
    stride = stride > 0 && stride < 1 << 20 ? 2 * stride : bytes->choose<int32_t>({16});
  }
  const int32_t levels = std::min(std::max(params.num_levels, 1), AFDET_MAX_LEVELS);
  const int32_t coarsest = params.strides[levels - 1];
  params.height = bytes->choose<int32_t>({32, coarsest, 16, 48, 128});
  params.width = bytes->choose<int32_t>({32, coarsest, 16, 48, 128});
  params.num_classes = bytes->choose<int32_t>({3, 1, 2, 17});
  params.candidates_per_level = bytes->choose<int32_t>({1000, 1, 2, 7, 100, 2049, 5000});
  params.max_detections = bytes->choose<int32_t>({100, 1, 5, 513, 1000});
  params.class_agnostic = bytes->choose<int32_t>({0, 1});
  params.regression_scale = bytes->choose<float>({4.0f, 1.0f, 1e-20f, 1e30f});
  params.score_threshold = bytes->choose<float>({0.05f, 0.0f, 0.5f, 0.999f, 1.0f});
  params.nms_iou = bytes->choose<float>({0.5f, 0.0f, 0.3f, 1.0f});
  problem.dtype = bytes->choose<int32_t>({AFDET_FLOAT32, AFDET_FLOAT16});
  problem.batch = bytes->choose<int32_t>({1, 2, 3});
  return problem;
}

// Heads of eight values per kind, so that many tie, distributed by a counter.
void read_heads(Bytes* bytes, Problem* problem) {
  float palette[2][8];
  for (auto& kind : palette) {
    for (float& value : kind) {
      value = bytes->choose<float>({0.0f, -0.0f, 0.5f, -3.0f, 2.0f, 65504.0f, 6e-8f,
                                    std::numeric_limits<float>::infinity(),
                                    -std::numeric_limits<float>::infinity(), std::nanf("")});
    }
  }
  uint32_t state = bytes->raw<uint32_t>() | 1u;
  problem->fill([&](bool is_box) {
    state = state * 1664525u + 1013904223u;
    return palette[is_box ? 1 : 0][state >> 29];
  });
}

// Whether the problem is too large to run, if it is valid.
bool is_large(const Problem& problem, const afdet::DecodeParams& decode) {
  constexpr int64_t kMost = 1 << 16;
  int64_t values = decode.max_detections;
  for (int level = 0; level < decode.num_levels; ++level) {
    values += int64_t{decode.levels[level].points()} * (decode.num_classes + 4);
  }
  return values > kMost || int64_t{problem.batch} > kMost || values * problem.batch > kMost;
}

// All pointers are valid, but the call must not read their targets.
void check_refused(const Problem& problem, int32_t threads) {
  std::vector<const void*> heads(2 * AFDET_MAX_LEVELS, &problem);
  Problem small = make_problem(1, 128, 128);
  Results results(small);
  const AfdetDetections out = results.out();
  CHECK(afdet_host_detect(&problem.params, heads.data(), problem.dtype, problem.batch, nullptr,
                          threads, &out) != AFDET_OK);
  alignas(256) char workspace[256];
  CHECK(afdet_cuda_detect(&problem.params, heads.data(), problem.dtype, problem.batch, &out,
                          workspace, sizeof workspace, nullptr) != AFDET_OK);
  CHECK(results.untouched());
}

void fuzz(Bytes bytes) {
  Problem problem = read_params(&bytes);
  const int32_t threads = bytes.choose<int32_t>({1, 2});
  const uint32_t order = bytes.next();
  afdet::DecodeParams decode;
  const bool sound = afdet::make_decode_params(&problem.params, &decode) == AFDET_OK &&
                     (problem.dtype == AFDET_FLOAT32 || problem.dtype == AFDET_FLOAT16);
  if (!sound || problem.batch < 0 || threads < 1) {
    if (!sound || problem.batch < 0) check_refused(problem, threads);
    return;
  }
  if (is_large(problem, decode)) {
    size_t needed = 0;
    afdet_cuda_detect_workspace(&problem.params, problem.dtype, problem.batch, &needed);
    return;
  }
  read_heads(&bytes, &problem);
  std::vector<uint8_t> wanted(static_cast<size_t>(problem.params.num_classes));
  const bool all = bytes.next() % 4 != 0;
  for (uint8_t& one : wanted) one = bytes.next() & 1u;
  const uint8_t* mask = all ? nullptr : wanted.data();

  Results host(problem);
  CHECK(run_host(problem, &host, std::min(threads, 3), mask) == AFDET_OK);
  CHECK(host == naive_detect(problem, mask));
  if (!all) return;
  afdet_emulated_set_order(order);
  Results emulated(problem);
  const AfdetStatus status = run_emulated(problem, &emulated);
  if (status == AFDET_OK) {
    CHECK(emulated == host);
  } else {
    CHECK(status == AFDET_ERROR_BATCH && problem.batch == 0);
    CHECK(emulated.untouched());
  }
}

}  // namespace
}  // namespace afdet_test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  afdet_test::fuzz(afdet_test::Bytes(data, size));
  // The fuzzer saves the input that causes an abort.
  if (afdet_test::failures() != 0) std::abort();
  return 0;
}

#if !defined(AFDET_LIBFUZZER)
int main(int count, char** arguments) {
  const int runs = count > 1 ? std::atoi(arguments[1]) : 4000;
  std::mt19937 random(1);
  for (int run = 0; run < runs; ++run) {
    std::vector<uint8_t> input(random() % 200);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  return 0;
}
#endif

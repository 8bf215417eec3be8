// Decode + NMS on the CPU. For each image, a vectorised scan of each level's raw logits keeps the
// best candidates; they are then sorted, decoded and suppressed best first, only as far as needed.
#include <algorithm>
#include <atomic>
#include <limits>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "afdet/host.h"
#include "core/box.hpp"
#include "core/half.hpp"
#include "core/key.hpp"
#include "core/params.hpp"

namespace afdet {
namespace {

constexpr int kScanBlock = 32;
constexpr int kKeptBlock = 16;

// 1 << i, as a table that vector code can load.
constexpr uint32_t kBits[kScanBlock] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,
    1u << 8,  1u << 9,  1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15,
    1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21, 1u << 22, 1u << 23,
    1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};
// The lowest set bit of a mask that is not zero.
inline size_t lowest_bit(uint32_t mask) {
#if defined(__GNUC__)
  return static_cast<size_t>(__builtin_ctz(mask));
#else
  size_t bit = 0;
  while (((mask >> bit) & 1u) == 0) ++bit;
  return bit;
#endif
}

// Candidates in the first group to sort and suppress; it is enough for most frames.
constexpr size_t kFirstHelping = 256;

// The order of +infinity among halves; see half_order.
constexpr int16_t kHalfInfinity = 0x7C00;

// An integer that increases with the half; minus infinity is -0x7C01, NaN is beyond the infinities.
AFDET_HD int16_t half_order(Half half) {
  const int16_t bits = static_cast<int16_t>(half.bits);
  return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7FFF));
}

// Kept boxes of one class, as many as vector code processes at a time.
struct KeptBlock {
  float x1[kKeptBlock], y1[kKeptBlock], x2[kKeptBlock], y2[kKeptBlock], area[kKeptBlock];
  int32_t count;
  int32_t next;  // block of the same class, or -1
};

}  // namespace
}  // namespace afdet

#define AFDET_SIMD_NAMESPACE baseline
#define AFDET_SIMD_TARGET
#include "simd.hpp"
#undef AFDET_SIMD_NAMESPACE
#undef AFDET_SIMD_TARGET

#if defined(__GNUC__) && defined(__x86_64__)
#define AFDET_AVX2 1
#define AFDET_SIMD_NAMESPACE avx2
#define AFDET_SIMD_TARGET __attribute__((target("avx2")))
#include "simd.hpp"
#undef AFDET_SIMD_NAMESPACE
#undef AFDET_SIMD_TARGET
#endif

namespace afdet {
namespace {

// One instruction set's loops.
struct SimdLoops {
  const char* name;
  size_t (*find_float)(const float*, size_t, size_t, float, bool, uint32_t*);
  size_t (*find_half)(const Half*, size_t, size_t, int16_t, bool, uint32_t*);
  bool (*any_overlaps)(const KeptBlock&, const Box&, float, float);
};

const SimdLoops& simd_loops() {
#if defined(AFDET_AVX2)
  static const SimdLoops kAvx2 = {"avx2", avx2::find_block, avx2::find_block, avx2::any_overlaps};
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return kAvx2;
#endif
  static const SimdLoops kBaseline = {"baseline", baseline::find_block, baseline::find_block,
                                      baseline::any_overlaps};
  return kBaseline;
}

// The criterion of a scan: values above a limit, which rises as better candidates are found.
class FloatLimit {
 public:
  explicit FloatLimit(float threshold) : low_(threshold) {}
  void raise(float logit) {
    low_ = logit;
    or_equal_ = true;
  }
  size_t find(const float* values, size_t block, size_t blocks, uint32_t* found) const {
    return simd_loops().find_float(values, block, blocks, low_, or_equal_, found);
  }
  bool admits(float value) const { return or_equal_ ? value >= low_ : value > low_; }

 private:
  float low_;
  bool or_equal_ = false;
};

class HalfLimit {
 public:
  explicit HalfLimit(float threshold) : low_(highest_not_above(threshold)) {}
  void raise(float logit) {
    // Candidates are halves, so the conversion is exact. For zero, use the lower of the two zeros.
    low_ = half_order(to_half(logit == 0.0f ? -0.0f : logit));
    or_equal_ = true;
  }
  size_t find(const Half* values, size_t block, size_t blocks, uint32_t* found) const {
    return simd_loops().find_half(values, block, blocks, low_, or_equal_, found);
  }
  bool admits(Half value) const {
    const int16_t order = half_order(value);
    return order <= kHalfInfinity && (or_equal_ ? order >= low_ : order > low_);
  }

 private:
  // The order of the highest half that is not above the threshold.
  static int16_t highest_not_above(float threshold) {
    int low = -kHalfInfinity - 1;
    int high = kHalfInfinity;
    while (low < high) {
      const int middle = low + (high - low + 1) / 2;
      const int bits = middle >= 0 ? middle : middle ^ 0x7FFF;
      const Half half{static_cast<uint16_t>(bits & 0xFFFF)};
      if (to_float(half) <= threshold) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return static_cast<int16_t>(low);
  }

  int16_t low_;
  bool or_equal_ = false;
};

FloatLimit limit_for(const float*, float threshold) { return FloatLimit(threshold); }
HalfLimit limit_for(const Half*, float threshold) { return HalfLimit(threshold); }

// Working memory of one thread, reused for each of its images.
class Worker {
 public:
  Worker(const DecodeParams& params, const uint8_t* wanted) : params_(params), wanted_(wanted) {
    chains_.resize(params.class_agnostic ? 1 : static_cast<size_t>(params.num_classes));
  }

  // Processes one image. `heads` point at its data; `image` is the index of the results.
  template <typename T>
  void detect(const T* const* cls, const T* const* reg, size_t image, const AfdetDetections& out) {
    keys_.clear();
    for (int level = 0; level < params_.num_levels; ++level) select(cls[level], level);
    suppress(reg, image, out);
  }

 private:
  // Appends the level's best candidates to keys_, unordered.
  template <typename T>
  void select(const T* logits, int level) {
    const size_t first = keys_.size();
    if (scan(logits, level, true)) return;
    keys_.resize(first);
    scan(logits, level, false);
  }

  // The same, but raises the limit to an estimate once there are many candidates. False if the
  // estimate was too high, so that candidates were lost.
  template <typename T>
  bool scan(const T* logits, int level, bool may_guess) {
    const size_t points = static_cast<size_t>(params_.levels[level].points());
    const size_t most = static_cast<size_t>(params_.candidates_per_level);
    const size_t first = keys_.size();
    auto limit = limit_for(logits, params_.logit_threshold);
    Key worst = kNoKey;  // Once there are enough, keys from this one on cannot be among the best.
    float floor = -std::numeric_limits<float>::infinity();  // The estimate: lower values are cut.
    bool guessed = false;
    const uint32_t classes = static_cast<uint32_t>(params_.num_classes);

    const auto offer = [&](size_t point, uint32_t class_id, T value) {
      if (!limit.admits(value)) return;
      const Key key =
          make_key(to_float(value), level, static_cast<uint32_t>(point) * classes + class_id);
      if (key >= worst) return;
      keys_.push_back(key);
      // Cutting only at twice the limit makes the cost per candidate constant.
      if (keys_.size() - first < 2 * most) return;
      keep_best(first, most);
      worst = *std::max_element(keys_.begin() + static_cast<std::ptrdiff_t>(first), keys_.end());
      if (may_guess) guessed = guess(logits, points * classes, most, &floor);
      may_guess = false;
      limit.raise(std::max(key_logit(worst), floor));
    };

    for (uint32_t class_id = 0; class_id < classes; ++class_id) {
      if (wanted_ != nullptr && wanted_[class_id] == 0) continue;
      const T* plane = logits + class_id * points;
      const size_t blocks = points / kScanBlock;
      uint32_t found = 0;
      for (size_t block = limit.find(plane, 0, blocks, &found); block < blocks;
           block = limit.find(plane, block + 1, blocks, &found)) {
        for (; found != 0; found &= found - 1) {
          const size_t point = block * kScanBlock + lowest_bit(found);
          offer(point, class_id, plane[point]);
        }
      }
      for (size_t i = blocks * kScanBlock; i < points; ++i) offer(i, class_id, plane[i]);
    }
    keep_best(first, most);
    if (!guessed) return true;
    // All candidates above the estimate are present. Check that it includes all of the best.
    const auto reaches = [&](Key key) { return key_logit(key) >= floor; };
    return keys_.size() - first == most &&
           std::all_of(keys_.begin() + static_cast<std::ptrdiff_t>(first), keys_.end(), reaches);
  }

  // Estimates from a sample a logit that slightly more values than needed exceed.
  template <typename T>
  bool guess(const T* logits, size_t pairs, size_t most, float* logit) {
    constexpr size_t kSample = 2048;
    constexpr size_t kFewest = 8;  // Least number of sampled values above the estimate.
    if (wanted_ != nullptr || pairs < kSample) return false;
    const uint64_t rank = uint64_t{most} * 5 / 2 * kSample / pairs;
    if (rank < kFewest || rank >= kSample) return false;
    sample_.clear();
    const size_t step = pairs / kSample;
    for (size_t i = 0; i < kSample; ++i) {
      const float value = to_float(logits[i * step]);
      // Larger than the key of any value, so that NaN comes last.
      sample_.push_back(value == value ? falling_bits(value) : ~0u);
    }
    const auto place = sample_.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(sample_.begin(), place, sample_.end());
    const float value = falling_logit(*place);
    if (value != value) return false;
    *logit = value;
    return true;
  }

  void keep_best(size_t first, size_t most) {
    if (keys_.size() - first <= most) return;
    const auto begin = keys_.begin() + static_cast<std::ptrdiff_t>(first);
    std::nth_element(begin, begin + static_cast<std::ptrdiff_t>(most), keys_.end());
    keys_.resize(first + most);
  }

  // Processes keys_ best first and writes the kept boxes.
  template <typename T>
  void suppress(const T* const* reg, size_t image, const AfdetDetections& out) {
    const size_t most = static_cast<size_t>(params_.max_detections);
    float* boxes = out.boxes + image * most * 4;
    float* scores = out.scores + image * most;
    int32_t* classes = out.classes + image * most;
    std::fill(chains_.begin(), chains_.end(), -1);
    kept_.clear();

    size_t count = 0;
    size_t sorted = 0;
    size_t helping = kFirstHelping;
    for (size_t i = 0; i < keys_.size() && count < most; ++i) {
      if (i == sorted) {
        sort_next(sorted, helping);
        sorted = std::min(keys_.size(), sorted + helping);
        helping *= 2;
      }
      const Key key = keys_[i];
      const uint32_t rank = key_rank(key);
      const uint32_t point = rank / static_cast<uint32_t>(params_.num_classes);
      const int32_t class_id =
          static_cast<int32_t>(rank % static_cast<uint32_t>(params_.num_classes));
      Box box;
      if (!decode(reg, key_level(key), point, &box)) continue;
      if (!keep(box, params_.class_agnostic ? 0 : static_cast<size_t>(class_id))) continue;
      boxes[count * 4 + 0] = box.x1;
      boxes[count * 4 + 1] = box.y1;
      boxes[count * 4 + 2] = box.x2;
      boxes[count * 4 + 3] = box.y2;
      scores[count] = sigmoid(key_logit(key));
      classes[count] = class_id;
      ++count;
    }
    out.num_detections[image] = static_cast<int32_t>(count);
    std::fill(boxes + count * 4, boxes + most * 4, 0.0f);
    std::fill(scores + count, scores + most, 0.0f);
    std::fill(classes + count, classes + most, -1);
  }

  // Sorts the next `helping` keys from `sorted` on.
  void sort_next(size_t sorted, size_t helping) {
    const auto begin = keys_.begin() + static_cast<std::ptrdiff_t>(sorted);
    auto end = keys_.end();
    if (keys_.size() - sorted > helping) {
      end = begin + static_cast<std::ptrdiff_t>(helping);
      std::nth_element(begin, end, keys_.end());
    }
    std::sort(begin, end);
  }

  template <typename T>
  bool decode(const T* const* reg, int level, uint32_t point, Box* box) const {
    const Level& grid = params_.levels[level];
    const size_t points = static_cast<size_t>(grid.points());
    const T* distance = reg[level] + point;
    const int32_t index = static_cast<int32_t>(point);
    return decode_box(grid.x(index), grid.y(index), to_float(distance[0]),
                      to_float(distance[points]), to_float(distance[2 * points]),
                      to_float(distance[3 * points]), grid.scale, params_.width, params_.height,
                      box);
  }

  // True if kept boxes of the group do not overlap the box; the box is then kept.
  bool keep(const Box& box, size_t group) {
    const float box_area = area(box);
    const int32_t newest = chains_[group];
    for (int32_t block = newest; block >= 0; block = kept_[static_cast<size_t>(block)].next) {
      const KeptBlock& kept = kept_[static_cast<size_t>(block)];
      if (simd_loops().any_overlaps(kept, box, box_area, params_.nms_iou)) return false;
    }
    if (newest < 0 || kept_[static_cast<size_t>(newest)].count == kKeptBlock) {
      chains_[group] = static_cast<int32_t>(kept_.size());
      kept_.push_back(KeptBlock{});
      kept_.back().next = newest;
    }
    KeptBlock& kept = kept_[static_cast<size_t>(chains_[group])];
    const int32_t place = kept.count++;
    kept.x1[place] = box.x1;
    kept.y1[place] = box.y1;
    kept.x2[place] = box.x2;
    kept.y2[place] = box.y2;
    kept.area[place] = box_area;
    return true;
  }

  const DecodeParams& params_;
  const uint8_t* wanted_;
  std::vector<Key> keys_;
  std::vector<uint32_t> sample_;
  std::vector<int32_t> chains_;  // per group: the newest block, or -1
  std::vector<KeptBlock> kept_;
};

// Processes images until all are taken.
template <typename T>
void detect_images(const DecodeParams& params, const void* const* heads, const uint8_t* wanted,
                   size_t batch, const AfdetDetections& out, std::atomic<size_t>* next) {
  Worker worker(params, wanted);
  for (size_t image = (*next)++; image < batch; image = (*next)++) {
    const T* cls[AFDET_MAX_LEVELS];
    const T* reg[AFDET_MAX_LEVELS];
    for (int level = 0; level < params.num_levels; ++level) {
      const size_t points = static_cast<size_t>(params.levels[level].points());
      cls[level] = static_cast<const T*>(heads[level]) +
                   image * points * static_cast<size_t>(params.num_classes);
      reg[level] = static_cast<const T*>(heads[params.num_levels + level]) + image * points * 4;
    }
    worker.detect(cls, reg, image, out);
  }
}

template <typename T>
AfdetStatus detect_batch(const DecodeParams& params, const void* const* heads,
                         const uint8_t* wanted, size_t batch, size_t threads,
                         const AfdetDetections& out) {
  std::atomic<size_t> next{0};
  std::atomic<bool> out_of_memory{false};
  const auto run = [&]() noexcept {
    try {
      detect_images<T>(params, heads, wanted, batch, out, &next);
    } catch (...) {  // Only allocations can throw here.
      out_of_memory = true;
    }
  };
  std::vector<std::thread> helpers;
  try {
    const size_t wanted_helpers = std::min(threads, batch) - 1;
    helpers.reserve(wanted_helpers);
    while (helpers.size() < wanted_helpers) helpers.emplace_back(run);
  } catch (const std::exception&) {
    // The threads that did start do all the work.
  }
  run();
  for (std::thread& helper : helpers) helper.join();
  return out_of_memory ? AFDET_ERROR_NO_MEMORY : AFDET_OK;
}

}  // namespace
}  // namespace afdet

int32_t afdet_host_abi_version(void) { return AFDET_ABI_VERSION; }

const char* afdet_host_build_info(void) {
#if defined(__clang__)
#define AFDET_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define AFDET_COMPILER "gcc " __VERSION__
#elif defined(_MSC_VER)
#define AFDET_COMPILER "msvc"
#else
#define AFDET_COMPILER "an unknown compiler"
#endif
#if defined(AFDET_AVX2)
  if (afdet::simd_loops().name[0] == 'a') return AFDET_COMPILER ", avx2";
#endif
  return AFDET_COMPILER ", baseline instructions";
}

AfdetStatus afdet_host_detect(const AfdetParams* given, const void* const* heads, int32_t dtype,
                              int32_t batch, const uint8_t* wanted, int32_t threads,
                              const AfdetDetections* out) {
  afdet::DecodeParams params;
  const AfdetStatus status = afdet::make_decode_params(given, &params);
  if (status != AFDET_OK) return status;
  if (dtype != AFDET_FLOAT32 && dtype != AFDET_FLOAT16) return AFDET_ERROR_DTYPE;
  if (batch < 0 || threads < 1) return AFDET_ERROR_BATCH;
  if (batch == 0) return AFDET_OK;
  if (heads == nullptr || out == nullptr || out->num_detections == nullptr ||
      out->boxes == nullptr || out->scores == nullptr || out->classes == nullptr) {
    return AFDET_ERROR_NULL_POINTER;
  }
  for (int32_t i = 0; i < 2 * params.num_levels; ++i) {
    if (heads[i] == nullptr) return AFDET_ERROR_NULL_POINTER;
  }
  const size_t images = static_cast<size_t>(batch);
  const size_t most_threads = static_cast<size_t>(threads);
  if (dtype == AFDET_FLOAT32) {
    return afdet::detect_batch<float>(params, heads, wanted, images, most_threads, *out);
  }
  return afdet::detect_batch<afdet::Half>(params, heads, wanted, images, most_threads, *out);
}

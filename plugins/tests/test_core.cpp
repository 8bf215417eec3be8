// The definitions that CPU and GPU code share.
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "core/box.hpp"
#include "core/half.hpp"
#include "core/key.hpp"
#include "core/params.hpp"
#include "problem.hpp"

namespace afdet {
namespace {

using Limits = std::numeric_limits<float>;

// Boundary values of floats, with both signs.
std::vector<float> special_floats() {
  std::vector<float> result;
  for (const float value :
       {0.0f, Limits::denorm_min(), 1e-40f, Limits::min(), 5.9604645e-8f,
        std::nextafter(Limits::min(), 0.0f), 0.5f, std::nextafter(1.0f, 0.0f), 1.0f,
        std::nextafter(1.0f, 2.0f), 65504.0f, Limits::max(), Limits::infinity()}) {
    result.push_back(value);
    result.push_back(-value);
  }
  return result;
}

TEST(keys_sort_candidates) {
  struct Place {
    int level;
    uint32_t rank;
  };
  // In the order of candidates with the same logit.
  const std::vector<Place> places = {
      {0, 0}, {0, 1}, {0, kMaxRanks - 1}, {1, 0}, {7, kMaxRanks - 1}};
  const std::vector<float> logits = special_floats();
  for (const float a : logits) {
    for (const float b : logits) {
      for (size_t i = 0; i < places.size(); ++i) {
        for (size_t j = 0; j < places.size(); ++j) {
          const Key first = make_key(a, places[i].level, places[i].rank);
          const Key second = make_key(b, places[j].level, places[j].rank);
          CHECK((first < second) == (a > b || (a == b && i < j)));
          CHECK((first == second) == (a == b && i == j));
        }
      }
    }
    for (const Place& place : places) {
      const Key key = make_key(a, place.level, place.rank);
      CHECK(key < kNoKey);
      CHECK(key_logit(key) == a);
      CHECK(key_level(key) == place.level);
      CHECK(key_rank(key) == place.rank);
    }
  }
}

TEST(neighbouring_logits_differ) {
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const float logit = bits_float(static_cast<uint32_t>(random()));
    if (!std::isfinite(logit)) continue;
    const float above = std::nextafter(logit, Limits::infinity());
    if (above == logit) continue;
    CHECK(falling_bits(above) < falling_bits(logit));
    CHECK(falling_logit(falling_bits(logit)) == logit);
  }
}

TEST(every_half) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const float value = to_float(half);
    const float want = afdet_test::half_value(half.bits);
    if (want != want) {
      CHECK(value != value);
      const uint16_t back = to_half(value).bits;
      CHECK((back & 0x7C00) == 0x7C00 && (back & 0x3FF) != 0);
      continue;
    }
    CHECK(float_bits(value) == float_bits(want));
    CHECK(to_half(value).bits == half.bits);
  }
}

TEST(half_rounds_to_nearest_even) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = afdet_test::half_value(static_cast<uint16_t>(bits));
    const float high = afdet_test::half_value(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // Exact.
    const uint32_t even = bits + (bits & 1u);
    CHECK(to_half(middle).bits == even);
    CHECK(to_half(-middle).bits == (even | 0x8000u));
    CHECK(to_half(std::nextafter(middle, 0.0f)).bits == bits);
    CHECK(to_half(std::nextafter(middle, high)).bits == bits + 1);
  }
  CHECK(to_half(65504.0f).bits == 0x7BFF);
  CHECK(to_half(std::nextafter(65520.0f, 0.0f)).bits == 0x7BFF);
  CHECK(to_half(65520.0f).bits == 0x7C00);
  CHECK(to_half(Limits::max()).bits == 0x7C00);
  CHECK(to_half(-Limits::infinity()).bits == 0xFC00);
  CHECK(to_half(Limits::denorm_min()).bits == 0);
  std::mt19937 random(2);
  for (int i = 0; i < 200000; ++i) {
    const float value = bits_float(static_cast<uint32_t>(random()));
    if (value == value) CHECK(to_half(value).bits == afdet_test::nearest_half(value));
  }
}

bool decode(float left, float top, float right, float bottom, Box* box) {
  // Point (56, 40) of a 256 x 128 input, 64 pixels per unit.
  return decode_box(56.0f, 40.0f, left, top, right, bottom, 64.0f, 256.0f, 128.0f, box);
}

bool is(const Box& box, float x1, float y1, float x2, float y2) {
  return box.x1 == x1 && box.y1 == y1 && box.x2 == x2 && box.y2 == y2;
}

TEST(decode_by_hand) {
  Box box{};
  CHECK(decode(0.25f, 0.5f, 1.0f, 0.125f, &box) && is(box, 40, 8, 120, 48));
  CHECK(decode(9.0f, 9.0f, 9.0f, 9.0f, &box) && is(box, 0, 0, 256, 128));
  CHECK(decode(1e30f, 1e30f, 1e30f, 1e30f, &box) && is(box, 0, 0, 256, 128));
  // A box may lie beside its point, but it must not be inverted.
  CHECK(decode(-0.5f, 0.25f, 1.0f, 0.25f, &box) && is(box, 88, 24, 120, 56));
  CHECK(!decode(0.0f, 0.0f, 0.0f, 0.0f, &box));
  CHECK(!decode(0.25f, 0.0f, 0.25f, 0.0f, &box));
  CHECK(!decode(-1.0f, 1.0f, 0.5f, 1.0f, &box));
  CHECK(!decode(-4.0f, 1.0f, 9.0f, 1.0f, &box));  // Entirely right of the input.
  for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(),
                          Limits::max()}) {  // The last one overflows when it is scaled.
    CHECK(!decode(bad, 1.0f, 1.0f, 1.0f, &box));
    CHECK(!decode(1.0f, bad, 1.0f, 1.0f, &box));
    CHECK(!decode(1.0f, 1.0f, bad, 1.0f, &box));
    CHECK(!decode(1.0f, 1.0f, 1.0f, bad, &box));
  }
}

bool removes(const Box& a, const Box& b, float threshold) {
  const bool result = overlaps(a, area(a), b, area(b), threshold);
  CHECK(result == overlaps(b, area(b), a, area(a), threshold));
  return result;
}

TEST(overlap_by_hand) {
  const Box ten{0, 0, 10, 10};
  const Box shifted{5, 0, 15, 10};  // IoU 50 / 150.
  CHECK(removes(ten, shifted, 0.33f));
  CHECK(!removes(ten, shifted, 0.34f));
  const Box half{0, 0, 10, 5};  // IoU is exactly 0.5, which is not above it.
  CHECK(!removes(ten, half, 0.5f));
  CHECK(removes(ten, half, std::nextafter(0.5f, 0.0f)));
  CHECK(removes(ten, ten, std::nextafter(1.0f, 0.0f)));
  CHECK(!removes(ten, ten, 1.0f));
  CHECK(!removes(ten, Box{10, 0, 20, 10}, 0.0f));
  CHECK(!removes(ten, Box{20, 20, 30, 30}, 0.0f));
  CHECK(removes(ten, Box{9, 9, 19, 19}, 0.0f));
  const Box tiny{0, 0, 1e-30f, 1e-30f};  // Its area underflows: 0 / 0.
  CHECK(area(tiny) == 0.0f);
  CHECK(!removes(tiny, tiny, 0.0f));
}

TEST(sigmoid) {
  CHECK(sigmoid(0.0f) == 0.5f);
  CHECK(sigmoid(Limits::infinity()) == 1.0f);
  CHECK(sigmoid(-Limits::infinity()) == 0.0f);
  for (float logit = -100.0f; logit < 100.0f; logit += 0.0625f) {
    const long double want = 1.0L / (1.0L + std::exp(-static_cast<long double>(logit)));
    const float found = sigmoid(logit);
    CHECK(std::fabs(static_cast<long double>(found) - want) <= want * 1.2e-7L + 1e-45L);
    CHECK(found <= sigmoid(logit + 0.0625f));
  }
}

TEST(logit_threshold) {
  CHECK(logit_threshold(0.5f) == 0.0f);
  CHECK(logit_threshold(0.0f) == -Limits::infinity());
  CHECK(logit_threshold(1.0f) == Limits::infinity());
  CHECK(std::fabs(logit_threshold(0.05f) + 2.944439f) < 1e-6f);
  CHECK(std::isfinite(logit_threshold(Limits::denorm_min())));
  CHECK(std::isfinite(logit_threshold(std::nextafter(1.0f, 0.0f))));
}

TEST(points_are_cell_centres) {
  const Level level{4, 8, 16, 64.0f};
  CHECK(level.points() == 32);
  CHECK(level.x(0) == 8.0f && level.y(0) == 8.0f);
  CHECK(level.x(19) == 56.0f && level.y(19) == 40.0f);
  CHECK(level.x(31) == 120.0f && level.y(31) == 56.0f);
}

TEST(decode_params_say_what_the_parameters_say) {
  AfdetParams params = afdet_test::make_problem(20, 384, 512).params;
  params.class_agnostic = 7;
  params.score_threshold = 0.5f;
  params.nms_iou = 0.25f;
  DecodeParams decode;
  CHECK(make_decode_params(&params, &decode) == AFDET_OK);
  CHECK(decode.num_levels == 5 && decode.num_classes == 20);
  CHECK(decode.levels[1].rows == 24 && decode.levels[1].columns == 32);
  CHECK(decode.levels[1].stride == 16 && decode.levels[1].scale == 64.0f);
  CHECK(decode.pairs(4) == 3 * 4 * 20);
  CHECK(decode.width == 512.0f && decode.height == 384.0f);
  CHECK(decode.class_agnostic && decode.logit_threshold == 0.0f && decode.nms_iou == 0.25f);
  CHECK(decode.candidates_per_level == 1000 && decode.max_detections == 100);
}

TEST(what_decode_params_take) {
  const auto takes = [](const std::function<void(AfdetParams&)>& change) {
    AfdetParams params = afdet_test::make_problem(2, 256, 256).params;
    change(params);
    DecodeParams decode;
    return make_decode_params(&params, &decode) == AFDET_OK;
  };
  CHECK(takes([](AfdetParams& p) { p.score_threshold = 0.0f; }));
  CHECK(takes([](AfdetParams& p) { p.score_threshold = 1.0f; }));
  CHECK(takes([](AfdetParams& p) { p.nms_iou = -0.0f; }));
  CHECK(takes([](AfdetParams& p) { p.nms_iou = 1.0f; }));
  CHECK(takes([](AfdetParams& p) { p.regression_scale = Limits::denorm_min(); }));
  CHECK(takes([](AfdetParams& p) { p.candidates_per_level = p.max_detections = kMaxLimit; }));
  CHECK(takes([](AfdetParams& p) { p.candidates_per_level = p.max_detections = 1; }));
  CHECK(takes([](AfdetParams& p) { p.num_levels = 1; }));
  // 1024 points of the finest level: as many pairs as a key has ranks for.
  CHECK(takes([](AfdetParams& p) { p.num_classes = 1 << 19; }));
  // Strides beyond num_levels are ignored.
  CHECK(takes([](AfdetParams& p) { p.strides[5] = -1; }));
}

TEST(what_decode_params_refuse) {
  const auto refuses = [](AfdetStatus want, const std::function<void(AfdetParams&)>& change) {
    AfdetParams params = afdet_test::make_problem(2, 256, 256).params;
    change(params);
    DecodeParams decode;
    std::memset(static_cast<void*>(&decode), 0xA5, sizeof decode);
    const DecodeParams before = decode;
    const bool refused = make_decode_params(&params, &decode) == want;
    return refused && std::memcmp(&before, &decode, sizeof decode) == 0;
  };
  DecodeParams decode;
  CHECK(make_decode_params(nullptr, &decode) == AFDET_ERROR_NULL_POINTER);
  for (const uint32_t size : {0u, 1u, 75u, 77u, ~0u}) {
    CHECK(refuses(AFDET_ERROR_STRUCT_SIZE, [&](AfdetParams& p) { p.struct_size = size; }));
  }
  for (const int32_t bad : {0, -1, INT32_MIN, INT32_MAX, AFDET_MAX_LEVELS + 1}) {
    CHECK(refuses(AFDET_ERROR_LEVELS, [&](AfdetParams& p) { p.num_levels = bad; }));
  }
  for (const int32_t bad : {0, -1, -8, INT32_MIN, INT32_MAX, 12, 8, 4, 32}) {
    CHECK(refuses(AFDET_ERROR_LEVELS, [&](AfdetParams& p) { p.strides[1] = bad; }));
  }
  for (const int32_t bad : {0, -1, -256, INT32_MIN, INT32_MAX, 255, 64, 1 << 30}) {
    CHECK(refuses(AFDET_ERROR_INPUT_SIZE, [&](AfdetParams& p) { p.height = p.width = bad; }));
    if (bad > 0 && bad % 128 == 0) continue;  // Alone it does not exceed the limit of points.
    CHECK(refuses(AFDET_ERROR_INPUT_SIZE, [&](AfdetParams& p) { p.height = bad; }));
    CHECK(refuses(AFDET_ERROR_INPUT_SIZE, [&](AfdetParams& p) { p.width = bad; }));
  }
  for (const int32_t bad : {0, -1, INT32_MIN, INT32_MAX, (1 << 19) + 1}) {
    CHECK(refuses(AFDET_ERROR_CLASSES, [&](AfdetParams& p) { p.num_classes = bad; }));
  }
  for (const int32_t bad : {0, -1, INT32_MIN, INT32_MAX, kMaxLimit + 1}) {
    CHECK(refuses(AFDET_ERROR_LIMITS, [&](AfdetParams& p) { p.candidates_per_level = bad; }));
    CHECK(refuses(AFDET_ERROR_LIMITS, [&](AfdetParams& p) { p.max_detections = bad; }));
  }
  for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), -1e-30f,
                          std::nextafter(1.0f, 2.0f)}) {
    CHECK(refuses(AFDET_ERROR_THRESHOLDS, [&](AfdetParams& p) { p.score_threshold = bad; }));
    CHECK(refuses(AFDET_ERROR_THRESHOLDS, [&](AfdetParams& p) { p.nms_iou = bad; }));
  }
  for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -4.0f, 0.0f}) {
    CHECK(refuses(AFDET_ERROR_THRESHOLDS, [&](AfdetParams& p) { p.regression_scale = bad; }));
  }
}

}  // namespace
}  // namespace afdet

int main() { return afdet_test::run_all(); }

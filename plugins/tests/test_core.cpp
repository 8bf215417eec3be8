// The shared definitions: key order, half precision, decoding, overlap, refusals.
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "core/box.hpp"
#include "core/half.hpp"
#include "core/key.hpp"
#include "core/params.hpp"

namespace {

using namespace afdet;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

AfdetParams good_params() {
  AfdetParams params{};
  params.struct_size = sizeof params;
  params.num_levels = 2;
  params.num_classes = 3;
  params.height = 32;
  params.width = 64;
  params.strides[0] = 8;
  params.strides[1] = 16;
  params.candidates_per_level = 10;
  params.max_detections = 5;
  params.regression_scale = 4.0f;
  params.score_threshold = 0.05f;
  params.nms_iou = 0.5f;
  return params;
}

template <typename F>
AfdetStatus status_with(F change) {
  AfdetParams params = good_params();
  change(params);
  Plan plan;
  return make_plan(&params, &plan);
}

TEST(keys_order_by_logit_then_level_then_rank) {
  const std::vector<float> logits = {-kInfinity, -3e38f, -1.0f, -1e-45f, 0.0f,
                                     1e-45f,     0.5f,   1.0f,  3e38f,   kInfinity};
  for (size_t i = 0; i < logits.size(); ++i) {
    for (size_t j = 0; j < logits.size(); ++j) {
      const bool better = logits[i] > logits[j];
      CHECK((make_key(logits[i], 7, kMaxRanks - 1) < make_key(logits[j], 0, 0)) == better);
    }
    CHECK(make_key(logits[i], 0, 5) < make_key(logits[i], 1, 0));
    CHECK(make_key(logits[i], 3, 5) < make_key(logits[i], 3, 6));
    CHECK(make_key(logits[i], 7, kMaxRanks - 1) < kNoKey);
  }
}

TEST(keys_give_back_what_they_hold) {
  for (const float logit : {-kInfinity, -2.5f, 0.0f, 1e-40f, 7.0f, kInfinity}) {
    const Key key = make_key(logit, 5, 123456789);
    CHECK(key_logit(key) == logit);
    CHECK(key_level(key) == 5);
    CHECK(key_rank(key) == 123456789);
  }
}

TEST(zeros_of_both_signs_are_one_logit) { CHECK(make_key(0.0f, 2, 9) == make_key(-0.0f, 2, 9)); }

// The value of a half, worked out from its fields.
double half_value(uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  if (exponent == 31) return fraction == 0 ? sign * kInfinity : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(every_half_is_converted_exactly_and_back) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const double want = half_value(half.bits);
    const float got = to_float(half);
    if (std::isnan(want)) {
      CHECK(std::isnan(got));
      CHECK(std::isnan(to_float(to_half(got))));
    } else {
      CHECK(static_cast<double>(got) == want);
      CHECK(std::signbit(got) == std::signbit(want));
      CHECK(to_half(got).bits == half.bits);
    }
  }
}

TEST(floats_round_to_the_nearest_half) {
  // Between each half and the next: the middle goes to the even one.
  for (uint16_t bits = 0; bits < 0x7BFF; ++bits) {
    const uint16_t next = static_cast<uint16_t>(bits + 1);
    const double middle = (half_value(bits) + half_value(next)) / 2;
    const float value = static_cast<float>(middle);
    CHECK(to_half(value).bits == (bits % 2 == 0 ? bits : next));
    CHECK(to_half(std::nextafter(value, 0.0f)).bits == bits);
    CHECK(to_half(std::nextafter(value, kInfinity)).bits == next);
  }
  CHECK(to_half(65519.99f).bits == 0x7BFF);
  CHECK(to_half(65520.0f).bits == 0x7C00);
  CHECK(to_half(-1e30f).bits == 0xFC00);
}

TEST(boxes_are_decoded_and_clipped) {
  Box box;
  CHECK(decode_box(100, 60, 0.5f, 0.25f, 1.0f, 2.0f, 32, 512, 96, &box));
  CHECK(box.x1 == 84 && box.y1 == 52 && box.x2 == 132 && box.y2 == 96);
  CHECK(!decode_box(100, 60, 0, 0, 0, 0, 32, 512, 96, &box));
  CHECK(!decode_box(100, 60, -8, 0, 0, 1, 32, 512, 96, &box));
  for (const float bad : {kInfinity, -kInfinity, std::nanf(""), 3e38f}) {
    CHECK(!decode_box(100, 60, bad, 1, 1, 1, 32, 512, 96, &box));
    CHECK(!decode_box(100, 60, 1, 1, 1, bad, 32, 512, 96, &box));
  }
}

TEST(overlap_is_strict_and_safe) {
  const Box a{0, 0, 10, 10};
  const Box b{5, 0, 15, 10};  // 50 of 150
  CHECK(overlaps(a, area(a), b, area(b), 0.333f));
  CHECK(!overlaps(a, area(a), b, area(b), 1.0f / 3.0f));
  CHECK(!overlaps(a, area(a), {20, 20, 30, 30}, 100, 0.0f));
  const Box point{3, 3, 3, 3};
  CHECK(!overlaps(point, 0, point, 0, 0.0f));
}

TEST(sigmoid_reaches_its_ends) {
  CHECK(sigmoid(0.0f) == 0.5f);
  CHECK(sigmoid(kInfinity) == 1.0f);
  CHECK(sigmoid(-kInfinity) == 0.0f);
  CHECK(sigmoid(-100.0f) > 0.0f);
}

TEST(thresholds_become_logits) {
  CHECK(logit_threshold(0.0f) == -kInfinity);
  CHECK(logit_threshold(1.0f) == kInfinity);
  CHECK(logit_threshold(0.5f) == 0.0f);
  CHECK(std::fabs(logit_threshold(0.05f) + 2.944439f) < 1e-6f);
}

TEST(plans_follow_from_parameters) {
  Plan plan;
  const AfdetParams params = good_params();
  CHECK(make_plan(&params, &plan) == AFDET_OK);
  CHECK(plan.levels[1].rows == 2 && plan.levels[1].columns == 4);
  CHECK(plan.levels[1].x(5) == 24.0f && plan.levels[1].y(5) == 24.0f);
  CHECK(plan.levels[1].scale == 64.0f);
  CHECK(plan.pairs(0) == 96);
}

TEST(bad_parameters_are_refused_by_name) {
  Plan plan;
  CHECK(make_plan(nullptr, &plan) == AFDET_ERROR_NULL_POINTER);
  CHECK(status_with([](AfdetParams& p) { p.struct_size -= 4; }) == AFDET_ERROR_STRUCT_SIZE);
  CHECK(status_with([](AfdetParams& p) { p.num_levels = 0; }) == AFDET_ERROR_LEVELS);
  CHECK(status_with([](AfdetParams& p) { p.num_levels = 9; }) == AFDET_ERROR_LEVELS);
  CHECK(status_with([](AfdetParams& p) { p.strides[1] = 8; }) == AFDET_ERROR_LEVELS);
  CHECK(status_with([](AfdetParams& p) { p.strides[1] = 12; }) == AFDET_ERROR_LEVELS);
  CHECK(status_with([](AfdetParams& p) { p.strides[0] = -8; }) == AFDET_ERROR_LEVELS);
  CHECK(status_with([](AfdetParams& p) { p.height = 24; }) == AFDET_ERROR_INPUT_SIZE);
  CHECK(status_with([](AfdetParams& p) { p.width = 0; }) == AFDET_ERROR_INPUT_SIZE);
  CHECK(status_with([](AfdetParams& p) { p.num_classes = 0; }) == AFDET_ERROR_CLASSES);
  CHECK(status_with([](AfdetParams& p) { p.num_classes = 1 << 30; }) == AFDET_ERROR_CLASSES);
  CHECK(status_with([](AfdetParams& p) { p.height = p.width = 1 << 30; }) ==
        AFDET_ERROR_INPUT_SIZE);
  CHECK(status_with([](AfdetParams& p) { p.candidates_per_level = 0; }) == AFDET_ERROR_LIMITS);
  CHECK(status_with([](AfdetParams& p) { p.max_detections = kMaxLimit + 1; }) ==
        AFDET_ERROR_LIMITS);
  for (const float bad : {-0.1f, 1.1f, std::nanf("")}) {
    CHECK(status_with([bad](AfdetParams& p) { p.score_threshold = bad; }) ==
          AFDET_ERROR_THRESHOLDS);
    CHECK(status_with([bad](AfdetParams& p) { p.nms_iou = bad; }) == AFDET_ERROR_THRESHOLDS);
  }
  for (const float bad : {0.0f, -1.0f, kInfinity, std::nanf("")}) {
    CHECK(status_with([bad](AfdetParams& p) { p.regression_scale = bad; }) ==
          AFDET_ERROR_THRESHOLDS);
  }
}

}  // namespace

int main() { return afdet_test::run_all(); }

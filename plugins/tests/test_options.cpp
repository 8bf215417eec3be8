// The plugin's options: reads, checks, writes and rereads them, also from arbitrary bytes.
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "tensorrt/options.hpp"

namespace {

using namespace afdet;

Options good_options() {
  Options options;
  options.height = 512;
  options.width = 384;
  options.strides = {8, 16, 32, 64, 128};
  options.regression_scale = 4.0f;
  options.score_threshold = 0.05f;
  options.candidates_per_level = 1000;
  options.nms_iou = 0.5f;
  options.class_agnostic = 1;
  options.max_detections = 100;
  return options;
}

bool same(const Options& a, const Options& b) { return to_bytes(a) == to_bytes(b); }

TEST(what_is_written_is_read_back) {
  const Options options = good_options();
  const std::vector<uint8_t> bytes = to_bytes(options);
  Options read;
  CHECK(from_bytes(bytes.data(), bytes.size(), &read).empty());
  CHECK(same(options, read));
  CHECK(read.strides == options.strides && read.score_threshold == 0.05f);
}

TEST(every_truncation_is_refused) {
  const std::vector<uint8_t> bytes = to_bytes(good_options());
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A copy of exactly that size, so that a sanitizer detects reads beyond it.
    const std::vector<uint8_t> part(bytes.begin(),
                                    bytes.begin() + static_cast<std::ptrdiff_t>(size));
    Options read;
    CHECK(!from_bytes(part.data(), part.size(), &read).empty());
  }
  std::vector<uint8_t> longer = bytes;
  longer.push_back(0);
  Options read;
  CHECK(from_bytes(longer.data(), longer.size(), &read).find("1 bytes too many") !=
        std::string::npos);
  CHECK(!from_bytes(nullptr, 0, &read).empty());
}

TEST(a_newer_format_is_refused_by_name) {
  std::vector<uint8_t> bytes = to_bytes(good_options());
  bytes[4] = 2;
  Options read;
  CHECK(from_bytes(bytes.data(), bytes.size(), &read).find("another version") != std::string::npos);
}

TEST(random_damage_never_crashes_and_never_gives_nonsense) {
  std::mt19937 random(1);
  const std::vector<uint8_t> bytes = to_bytes(good_options());
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> damaged = bytes;
    for (uint32_t n = random() % 4; n > 0; --n) {
      uint8_t& byte = damaged[random() % damaged.size()];
      byte = static_cast<uint8_t>(byte ^ (1u << random() % 8));
    }
    if (random() % 8 == 0) damaged.resize(random() % (damaged.size() + 1));
    Options read;
    if (!from_bytes(damaged.data(), damaged.size(), &read).empty()) continue;
    // Accepted options are within the limits and can be written again.
    CHECK(read.max_detections >= 1 && read.height > 0 && read.nms_iou <= 1.0f);
    CHECK(to_bytes(read).size() == bytes.size());
  }
}

TEST(attributes_of_other_number_types_are_taken_if_whole) {
  const Options options = good_options();
  std::vector<Field> fields = fields_of(options);
  const int64_t height = 512;
  const double iou = 0.25;
  fields[0] = {"height", FieldType::kInt64, 1, &height};
  fields[6] = {"nms_iou", FieldType::kFloat64, 1, &iou};
  fields.push_back({"plugin_version", FieldType::kOther, 1, "1"});
  Options read;
  CHECK(read_options(fields.data(), static_cast<int32_t>(fields.size()), &read).empty());
  CHECK(read.height == 512 && read.nms_iou == 0.25f);
  const double broken = 512.5;
  fields[0] = {"height", FieldType::kFloat64, 1, &broken};
  CHECK(read_options(fields.data(), static_cast<int32_t>(fields.size()), &read) ==
        "attribute height must be a whole number (got 512.5) - it is kept in 32 bits");
  const int64_t large = int64_t{1} << 32;
  fields[0] = {"height", FieldType::kInt64, 1, &large};
  CHECK(!read_options(fields.data(), static_cast<int32_t>(fields.size()), &read).empty());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  fields[0] = {"height", FieldType::kFloat64, 1, &nan};
  CHECK(!read_options(fields.data(), static_cast<int32_t>(fields.size()), &read).empty());
}

TEST(what_is_wrong_is_said) {
  const Options options = good_options();
  std::vector<Field> fields = fields_of(options);
  Options read;
  const auto message = [&] {
    return read_options(fields.data(), static_cast<int32_t>(fields.size()), &read);
  };
  CHECK(message().empty());
  fields.push_back({"nms_iuo", FieldType::kFloat32, 1, &options.nms_iou});
  CHECK(message().rfind("there is no such attribute (got nms_iuo) - there are height, ", 0) == 0);
  fields.pop_back();
  fields.pop_back();
  CHECK(message().rfind("attribute max_detections is missing", 0) == 0);
  fields.push_back({"max_detections", FieldType::kOther, 1, "100"});
  CHECK(message() ==
        "attribute max_detections must be a whole number (got another type) - such as 8");
  fields.back() = {"max_detections", FieldType::kInt32, 2, options.strides.data()};
  CHECK(message() == "attribute max_detections must be a whole number (got 2 values) - give one");
  fields.back() = {"max_detections", FieldType::kInt32, 1, nullptr};
  CHECK(!message().empty());
  fields.back() = {nullptr, FieldType::kInt32, 1, &options.height};
  CHECK(message() == "an attribute has no name");
}

TEST(what_is_out_of_range_is_said) {
  Options options = good_options();
  Options read;
  const auto message = [&] {
    const std::vector<Field> fields = fields_of(options);
    return read_options(fields.data(), static_cast<int32_t>(fields.size()), &read);
  };
  const auto starts = [&](const char* text) { return message().rfind(text, 0) == 0; };
  options.nms_iou = std::numeric_limits<float>::quiet_NaN();
  CHECK(starts("attribute nms_iou must be within 0..1 (got nan) - "));
  options = good_options();
  options.score_threshold = 1.1f;
  CHECK(starts("attribute score_threshold must be within 0..1 (got 1.1) - "));
  options = good_options();
  options.regression_scale = std::numeric_limits<float>::infinity();
  CHECK(starts("attribute regression_scale must be above 0 and finite (got inf) - "));
  options = good_options();
  options.strides = {8, 16, 16};
  CHECK(starts("attribute strides must be ascending powers of two (got 8, 16, 16) - "));
  options = good_options();
  options.width = 130;
  CHECK(starts("attributes height and width must be multiples of every stride (got 512 x 130 "));
  options = good_options();
  options.candidates_per_level = 0;
  CHECK(starts("attribute candidates_per_level must be within 1..1048576 (got 0) - "));
  options = good_options();
  options.class_agnostic = 2;
  CHECK(starts("attribute class_agnostic must be 0 or 1 (got 2) - "));
  // A refusal leaves the options unchanged.
  CHECK(read.strides.empty());
}

TEST(heads_must_fit) {
  const Options options = good_options();
  std::vector<Shape> shapes;
  for (int kind = 0; kind < 2; ++kind) {
    for (const int32_t stride : options.strides) {
      shapes.push_back({4, {-1, kind == 0 ? 20 : 4, 512 / stride, 384 / stride}});
    }
  }
  int64_t classes = 0;
  const auto message = [&] {
    return check_heads(options, shapes.data(), static_cast<int32_t>(shapes.size()), &classes);
  };
  CHECK(message().empty() && classes == 20);
  shapes[3].sizes[1] = 21;
  CHECK(message().rfind("the cls input of stride 64 must have 20 as channels (got 21)", 0) == 0);
  shapes[3].sizes[1] = 20;
  shapes[7].sizes[2] = 1;
  CHECK(message().rfind("the reg input of stride 32 must have 16 as rows (got 1)", 0) == 0);
  shapes[7].sizes[2] = 16;
  // Batches may be unknown, but not different.
  shapes[0].sizes[0] = 2;
  CHECK(message().empty());
  shapes[9].sizes[0] = 3;
  CHECK(message().rfind("the reg input of stride 128 must have 2 as the first", 0) == 0);
  shapes[9].sizes[0] = 2;
  for (size_t i = 0; i < 5; ++i) shapes[i].sizes[1] = -1;
  CHECK(message().empty() && classes == -1);
  for (size_t i = 0; i < 5; ++i) shapes[i].sizes[1] = 0;
  CHECK(message().rfind("there must be classes", 0) == 0);
  shapes[0].rank = 3;
  CHECK(message().rfind("the cls input of stride 8 must have 4 dimensions (got 3)", 0) == 0);
  shapes.pop_back();
  CHECK(message().rfind("the op takes a cls and a reg input per stride (got 9 inputs and 5", 0) ==
        0);
}

}  // namespace

int main() { return afdet_test::run_all(); }

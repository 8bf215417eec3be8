// The plugin's options: read, checked, written and read back, whatever the bytes.
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
    // A copy of that size, so that a sanitizer sees any read beyond it.
    const std::vector<uint8_t> part(bytes.begin(),
                                    bytes.begin() + static_cast<std::ptrdiff_t>(size));
    Options read;
    CHECK(!from_bytes(part.data(), part.size(), &read).empty());
  }
  std::vector<uint8_t> longer = bytes;
  longer.push_back(0);
  Options read;
  CHECK(from_bytes(longer.data(), longer.size(), &read).find("too long") != std::string::npos);
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
    // What was taken is within the limits, and can be written again.
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
        "attribute height must be whole (got 512.5)");
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
  CHECK(message() == "attribute max_detections must be a number (got text)");
  fields.back() = {"max_detections", FieldType::kInt32, 2, options.strides.data()};
  CHECK(message() == "attribute max_detections must have 1 value (got 2)");
  fields.back() = {"max_detections", FieldType::kInt32, 1, nullptr};
  CHECK(!message().empty());
  fields.back() = {nullptr, FieldType::kInt32, 1, &options.height};
  CHECK(message() == "an attribute has no name");
}

TEST(heads_must_fit) {
  const Options options = good_options();
  std::vector<Shape> shapes;
  for (int kind = 0; kind < 2; ++kind) {
    for (const int32_t stride : options.strides) {
      shapes.push_back({4, {-1, kind == 0 ? 20 : 4, 512 / stride, 384 / stride}});
    }
  }
  int32_t classes = 0;
  const auto message = [&] {
    return check_heads(options, shapes.data(), static_cast<int32_t>(shapes.size()), &classes);
  };
  CHECK(message().empty() && classes == 20);
  shapes[3].sizes[1] = 21;
  CHECK(message().rfind("cls input 3, dimension 1, must be 20 (got 21)", 0) == 0);
  shapes[3].sizes[1] = 20;
  shapes[7].sizes[2] = 1;
  CHECK(message().rfind("reg input 2, dimension 2, must be 16 (got 1)", 0) == 0);
  shapes[7].sizes[2] = 16;
  shapes[0].rank = 3;
  CHECK(message() == "cls input 0 must have 4 dimensions (got 3)");
  shapes.pop_back();
  CHECK(message().rfind("the op has as many inputs as twice its strides (got 9)", 0) == 0);
}

}  // namespace

int main() { return afdet_test::run_all(); }

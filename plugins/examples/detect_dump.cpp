// Prints detections from a dump of a network's heads, in C++ with only the C ABI:
//
//   g++ -std=c++17 -Iplugins/include plugins/examples/detect_dump.cpp -L... -lafdet_host
//   python plugins/examples/dump_heads.py model.onnx picture.jpg heads.bin
//   ./detect_dump heads.bin
//
// The dump contains the bytes of AfdetParams from num_levels on, then the float32 heads of one
// image: cls of each level, then reg of each level.
#include <afdet/host.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: detect_dump HEADS\n");
    return 2;
  }
  std::ifstream file(arguments[1], std::ios::binary);
  AfdetParams params;
  params.struct_size = sizeof params;
  if (!file.read(reinterpret_cast<char*>(&params.num_levels),
                 sizeof params - sizeof params.struct_size)) {
    std::fprintf(stderr, "%s is not a dump of heads\n", arguments[1]);
    return 2;
  }
  // With an empty batch, the call only checks the parameters.
  AfdetStatus status = afdet_host_detect(&params, nullptr, AFDET_FLOAT32, 0, nullptr, 1, nullptr);
  if (status != AFDET_OK) {
    std::fprintf(stderr, "%s contains invalid parameters: status %d\n", arguments[1], status);
    return 2;
  }

  std::vector<std::vector<float>> heads;
  std::vector<const void*> pointers;
  for (int i = 0; i < 2 * params.num_levels; ++i) {
    const int stride = params.strides[i % params.num_levels];
    const int depth = i < params.num_levels ? params.num_classes : 4;
    const long long size = 1LL * depth * (params.height / stride) * (params.width / stride);
    heads.emplace_back(static_cast<std::size_t>(size));
    if (!file.read(reinterpret_cast<char*>(heads.back().data()), size * 4)) {
      std::fprintf(stderr, "%s is cut off\n", arguments[1]);
      return 2;
    }
  }
  for (const std::vector<float>& head : heads) pointers.push_back(head.data());

  const std::size_t most = static_cast<std::size_t>(params.max_detections);
  int32_t number = 0;
  std::vector<float> boxes(most * 4), scores(most);
  std::vector<int32_t> classes(most);
  const AfdetDetections out = {&number, boxes.data(), scores.data(), classes.data()};
  status = afdet_host_detect(&params, pointers.data(), AFDET_FLOAT32, 1, nullptr, 1, &out);
  if (status != AFDET_OK) {
    std::fprintf(stderr, "refused with status %d\n", status);
    return 1;
  }
  for (int i = 0; i < number; ++i) {
    const float* box = &boxes[static_cast<std::size_t>(i) * 4];
    std::printf("%d %.4f %.2f %.2f %.2f %.2f\n", classes[i], scores[i], box[0], box[1], box[2],
                box[3]);
  }
  return 0;
}

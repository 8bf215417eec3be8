// libafdet_emulated: the source of the letterbox kernel on the CPU, for tests. It implements the
// C ABI of afdet/cuda.h on host memory and ignores the stream.
#include <new>

#include "cuda/letterbox_body.hpp"
#include "emulated/block.hpp"
#include "emulated/order.hpp"

namespace afdet {
namespace {

template <typename T>
void launch(const Input& input, const AfdetFrameDescriptor* frames, int32_t count, void* output) {
  const int32_t across = blocks_across(input.width);
  const int32_t down = blocks_down(input.height);
  Order order(emulated_order());
  for (const int block : order.turns(count * down * across)) {
    const int32_t frame = block / (down * across);
    const int32_t top = block / across % down * kThreadsDown;
    const int32_t left = block % across * kThreadsAcross * kColumns;
    for (const int thread : order.turns(kThreadsAcross * kThreadsDown)) {
      letterbox_thread(input, frames[frame], image_of<T>(input, output, frame),
                       left + thread % kThreadsAcross * kColumns, top + thread / kThreadsAcross);
    }
  }
}

}  // namespace
}  // namespace afdet

AfdetStatus afdet_cuda_place_frames(const AfdetInputParams* params, AfdetFrameDescriptor* frames,
                                    int32_t count) {
  return afdet::place_frames(params, frames, count);
}

AfdetStatus afdet_cuda_check_frames(const AfdetInputParams* params,
                                    const AfdetFrameDescriptor* frames, int32_t count) {
  return afdet::check_frames(params, frames, count);
}

AfdetStatus afdet_cuda_letterbox(const AfdetInputParams* params, const AfdetFrameDescriptor* frames,
                                 int32_t count, void* output, int32_t dtype, AfdetStream) {
  const AfdetStatus status = afdet::check_letterbox(params, frames, count, output, dtype);
  if (status != AFDET_OK) return status;
  const afdet::Input input = afdet::make_input(*params);
  try {
    if (dtype == AFDET_FLOAT16) {
      afdet::launch<afdet::Half>(input, frames, count, output);
    } else {
      afdet::launch<float>(input, frames, count, output);
    }
  } catch (const std::bad_alloc&) {
    return AFDET_ERROR_NO_MEMORY;
  }
  return AFDET_OK;
}

// libafdet_cuda: the letterbox in one launch; see letterbox_body.hpp.
#include <cuda_runtime.h>

#include "cuda/letterbox_body.hpp"

namespace afdet {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreadsAcross* kThreadsDown, 4)
    letterbox_kernel(const __grid_constant__ Input input,
                     const AfdetFrameDescriptor* __restrict__ frames, void* __restrict__ output) {
  const int32_t frame = static_cast<int32_t>(blockIdx.z);
  const int32_t left = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x) * kColumns;
  const int32_t row = static_cast<int32_t>(blockIdx.y * blockDim.y + threadIdx.y);
  letterbox_thread(input, load_frame(frames + frame), image_of<T>(input, output, frame), left, row);
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
                                 int32_t count, void* output, int32_t dtype, AfdetStream stream) {
  const AfdetStatus status = afdet::check_letterbox(params, frames, count, output, dtype);
  if (status != AFDET_OK) return status;
  const dim3 grid(static_cast<unsigned>(afdet::blocks_across(params->width)),
                  static_cast<unsigned>(afdet::blocks_down(params->height)),
                  static_cast<unsigned>(count));
  const dim3 block(afdet::kThreadsAcross, afdet::kThreadsDown);
  const auto kernel = dtype == AFDET_FLOAT16 ? &afdet::letterbox_kernel<afdet::Half>
                                             : &afdet::letterbox_kernel<float>;
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(afdet::make_input(*params), frames,
                                                                output);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? AFDET_OK : AFDET_ERROR_CUDA + static_cast<AfdetStatus>(error);
}

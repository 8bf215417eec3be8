// libafdet_cuda: decode + NMS. Queues a memset and the three kernels of detect_scan.hpp,
// detect_select.hpp and detect_suppress.hpp.
#include <cuda_runtime.h>

#include "cuda/block.cuh"
#include "cuda/detect_select.hpp"
#include "cuda/detect_suppress.hpp"

#define AFDET_TEXT_(x) #x
#define AFDET_TEXT(x) AFDET_TEXT_(x)

namespace afdet {
namespace {

using ScanBlock = CudaBlock<kScanThreads, ScanShared>;
template <int kSort>
using SelectBlock = CudaBlock<kSelectThreads, SelectShared, kSort>;
using SuppressBlock = CudaBlock<kSuppressThreads, SuppressShared>;

template <typename T>
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const __grid_constant__ DetectArgs args) {
  __shared__ ScanBlock::Storage storage;
  ScanBlock block(storage);
  scan<T>(block, args);
}

template <typename T, int kSort>
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const __grid_constant__ DetectArgs args) {
  __shared__ typename SelectBlock<kSort>::Storage storage;
  SelectBlock<kSort> block(storage);
  select<T>(block, args);
}

template <typename T>
__global__ void __launch_bounds__(kSuppressThreads)
    suppress_kernel(const __grid_constant__ DetectArgs args) {
  __shared__ SuppressBlock::Storage storage;
  SuppressBlock block(storage);
  suppress<T>(block, args);
}

AfdetStatus translate(cudaError_t error) {
  return error == cudaSuccess ? AFDET_OK : AFDET_ERROR_CUDA + static_cast<AfdetStatus>(error);
}

template <typename T>
AfdetStatus launch(const DetectArgs& args, int32_t batch, cudaStream_t stream) {
  const DecodeParams& params = args.params;
  const unsigned images = static_cast<unsigned>(batch);
  const unsigned levels = static_cast<unsigned>(params.num_levels);
  unsigned chunks = 0;
  for (int level = 0; level < params.num_levels; ++level) {
    chunks += static_cast<unsigned>(args.chunks[level]);
  }
  cudaError_t error = cudaMemsetAsync(args.counts, 0, sizeof(uint32_t) * levels * images, stream);
  if (error != cudaSuccess) return translate(error);
  scan_kernel<T><<<dim3(chunks, images), kScanThreads, 0, stream>>>(args);
  error = cudaGetLastError();
  if (error != cudaSuccess) return translate(error);
  if (args.few) {
    select_kernel<T, kFewSorted><<<dim3(levels, images), kSelectThreads, 0, stream>>>(args);
  } else {
    select_kernel<T, kManySorted><<<dim3(levels, images), kSelectThreads, 0, stream>>>(args);
  }
  error = cudaGetLastError();
  if (error != cudaSuccess) return translate(error);
  suppress_kernel<T><<<images, kSuppressThreads, 0, stream>>>(args);
  return translate(cudaGetLastError());
}

}  // namespace
}  // namespace afdet

int32_t afdet_cuda_abi_version(void) { return AFDET_ABI_VERSION; }

const char* afdet_cuda_build_info(void) {
  return "CUDA " AFDET_TEXT(__CUDACC_VER_MAJOR__) "." AFDET_TEXT(
      __CUDACC_VER_MINOR__) ", " AFDET_ARCHITECTURES;
}

AfdetStatus afdet_cuda_detect_workspace(const AfdetParams* params, int32_t dtype, int32_t batch,
                                        size_t* bytes) {
  if (bytes == nullptr) return AFDET_ERROR_NULL_POINTER;
  afdet::DetectArgs args;
  size_t needed;
  const AfdetStatus status = afdet::lay_out(params, dtype, batch, nullptr, &args, &needed);
  if (status == AFDET_OK) *bytes = needed;
  return status;
}

AfdetStatus afdet_cuda_detect(const AfdetParams* params, const void* const* heads, int32_t dtype,
                              int32_t batch, const AfdetDetections* out, void* workspace,
                              size_t workspace_bytes, AfdetStream stream) {
  afdet::DetectArgs args;
  const AfdetStatus status =
      afdet::prepare(params, heads, dtype, batch, out, workspace, workspace_bytes, &args);
  if (status != AFDET_OK) return status;
  cudaStream_t queue = static_cast<cudaStream_t>(stream);
  return dtype == AFDET_FLOAT16 ? afdet::launch<afdet::Half>(args, batch, queue)
                                : afdet::launch<float>(args, batch, queue);
}

// Shared by both adapters: TensorRT's logger, and conversions of its types.
#pragma once

#include <NvInfer.h>

#include <exception>
#include <string>
#include <vector>

#include "afdet/cuda.h"
#include "tensorrt/options.hpp"

// The interface to implement. TensorRT-RTX starts its versions at 1 and has only V3.
#if !defined(NV_TENSORRT_MAJOR)
#error "NvInferVersion.h does not say which TensorRT this is"
#elif defined(TRT_MAJOR_RTX)
#define AFDET_PLUGIN_V3 1
#define AFDET_TENSORRT_NAME "TensorRT-RTX"
#define AFDET_TENSORRT_LIBRARY "libtensorrt_rtx.so."
#else
#define AFDET_PLUGIN_V3 (NV_TENSORRT_MAJOR >= 10)
#define AFDET_TENSORRT_NAME "TensorRT"
#define AFDET_TENSORRT_LIBRARY "libnvinfer.so."
#endif

namespace afdet {

#if AFDET_PLUGIN_V3
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// The op's only creator.
CreatorInterface* creator();

// Finds TensorRT's logger. Called for every message, because the logger is null before the first
// builder or runtime, and may change.
using LoggerSource = nvinfer1::ILogger* (*)(void* context);
void set_logger_source(LoggerSource source, void* context);

// Reports one line to the user, through TensorRT's logger, or stderr without a logger.
void report(const char* text) noexcept;
inline void report(const std::string& text) noexcept { report(text.c_str()); }

Field to_field(const nvinfer1::PluginField& field);
std::vector<Field> to_fields(const nvinfer1::PluginFieldCollection* collection);
nvinfer1::PluginField to_plugin_field(const Field& field);
Shape to_shape(const nvinfer1::Dims& dims);
// Dimensions that are not constant are still unknown.
Shape to_shape(const nvinfer1::DimsExprs& dims);

// The fields of a creator: names and types, without values.
const nvinfer1::PluginFieldCollection* offered_fields();

// All heads FP32 or all FP16; boxes and scores FP32; numbers and classes INT32; all linear. `at`
// returns the description at a position; only positions up to `position` are checked.
template <typename At>
bool supports(int32_t position, int32_t inputs, const At& at) {
  using nvinfer1::DataType;
  const nvinfer1::PluginTensorDesc& tensor = at(position);
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == 0) return tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF;
  if (position < inputs) return tensor.type == at(0).type;
  return tensor.type ==
         (position - inputs == 1 || position - inputs == 2 ? DataType::kFLOAT : DataType::kINT32);
}

inline nvinfer1::DataType output_type(int32_t output) {
  return output == 1 || output == 2 ? nvinfer1::DataType::kFLOAT : nvinfer1::DataType::kINT32;
}

// Shape of an output, with the batch of the first input: [N, 1], [N, M, 4], [N, M], [N, M].
nvinfer1::DimsExprs output_shape(const Options& options, int32_t output,
                                 const nvinfer1::DimsExprs& first_input,
                                 nvinfer1::IExprBuilder& builder);

// Whether the heads' shapes fit the options and the kernels accept them; reports if not. `batch` is
// the largest batch. If it is negative, the batch and the shapes may still be unknown.
bool fits(const Options& options, const std::vector<Shape>& heads, int64_t batch);

// Bytes for the largest batch; 0 and a report if the kernels refuse it.
size_t workspace_bytes(const Options& options, int64_t num_classes, nvinfer1::DataType type,
                       int64_t batch);

// Queues the kernels. Returns 0, or -1 after a report.
int32_t enqueue(const Options& options, const nvinfer1::PluginTensorDesc* inputs,
                const void* const* heads, void* const* outputs, void* workspace,
                cudaStream_t stream);

// Runs a function and turns exceptions into a report, because they must not cross the interface.
template <typename Result, typename Function>
Result guarded(Result otherwise, Function&& function) noexcept {
  try {
    return function();
  } catch (const std::exception& error) {
    report(error.what());
  } catch (...) {
    report("an unknown error");
  }
  return otherwise;
}

}  // namespace afdet

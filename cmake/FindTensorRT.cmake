# Finds TensorRT's headers, and its library if it is installed (the plugin only needs the headers).
#
# Searches TensorRT_INCLUDE_DIR (also spelt TENSORRT_INCLUDE_DIR), then TensorRT_ROOT (variable or
# environment: an unpacked tar, or a folder with include/), then the usual places of JetPack, Debian
# packages and tars. The Python wheels do not contain headers.
#
#   TensorRT_FOUND, TensorRT_VERSION, TensorRT_INCLUDE_DIR, TensorRT_LIBRARY (may be empty),
#   TensorRT::Headers (target)

if(TENSORRT_INCLUDE_DIR AND NOT TensorRT_INCLUDE_DIR)
  set(TensorRT_INCLUDE_DIR "${TENSORRT_INCLUDE_DIR}" CACHE PATH "Folder of NvInfer.h")
endif()
set(_roots "${TensorRT_ROOT}" "$ENV{TensorRT_ROOT}" "$ENV{TENSORRT_ROOT}")
list(FILTER _roots EXCLUDE REGEX "^$")
set(_usual /usr /usr/local /usr/local/tensorrt /usr/local/TensorRT /opt/tensorrt /opt/TensorRT
           /usr/src/tensorrt)
file(GLOB _tars /opt/TensorRT-* /usr/local/TensorRT-* "$ENV{HOME}/TensorRT-*")
set(_suffixes include include/x86_64-linux-gnu include/aarch64-linux-gnu
              targets/x86_64-linux-gnu/include targets/aarch64-linux-gnu/include)

# If a root is given, other places are not searched.
if(_roots)
  find_path(TensorRT_INCLUDE_DIR NvInfer.h PATHS ${_roots} PATH_SUFFIXES ${_suffixes} NO_DEFAULT_PATH)
else()
  find_path(TensorRT_INCLUDE_DIR NvInfer.h PATHS ${_usual} ${_tars} PATH_SUFFIXES ${_suffixes})
endif()

set(TensorRT_VERSION "")
if(EXISTS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" _lines
       REGEX "#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)")
  foreach(_part MAJOR MINOR PATCH)
    # Newer headers define NV_TENSORRT_MAJOR as TRT_MAJOR_ENTERPRISE (TensorRT-RTX: TRT_MAJOR_RTX),
    # and that as the number.
    foreach(_name "NV_TENSORRT_${_part}" "TRT_${_part}_ENTERPRISE" "TRT_${_part}_RTX")
      if("${_lines}" MATCHES "#define ${_name} +([0-9]+)")
        list(APPEND TensorRT_VERSION ${CMAKE_MATCH_1})
        break()
      endif()
    endforeach()
  endforeach()
  list(JOIN TensorRT_VERSION "." TensorRT_VERSION)
  get_filename_component(_beside "${TensorRT_INCLUDE_DIR}/.." ABSOLUTE)
  find_library(TensorRT_LIBRARY NAMES nvinfer tensorrt_rtx
               HINTS "${_beside}/lib" "${_beside}/../lib"
               PATH_SUFFIXES x86_64-linux-gnu aarch64-linux-gnu)
  mark_as_advanced(TensorRT_LIBRARY)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR TensorRT_VERSION VERSION_VAR TensorRT_VERSION)

if(TensorRT_FOUND AND NOT TARGET TensorRT::Headers)
  add_library(TensorRT::Headers INTERFACE IMPORTED)
  # An imported target makes them system headers, which hides their warnings.
  set_target_properties(TensorRT::Headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()

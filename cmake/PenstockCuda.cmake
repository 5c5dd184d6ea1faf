# Decides whether the CUDA transfer is built: sets PENSTOCK_HAVE_CUDA and, if so, makes CUDA::cudart_static.
#
# A toolkit that the user has comes first (CUDAToolkit_ROOT, nvcc in PATH, /usr/local/cuda). Else, where this machine has an NVIDIA
# GPU or PENSTOCK_CUDA is ON, fetch_cuda.sh puts one into the user's cache folder. penstock only calls the CUDA runtime from
# C++, so no CUDA compiler is used, and its static runtime loads on machines without a driver.
set(PENSTOCK_HAVE_CUDA OFF)
string(TOUPPER "${PENSTOCK_CUDA}" penstock_cuda_wanted)
if(penstock_cuda_wanted STREQUAL "OFF")
  message(STATUS "penstock: CUDA off (PENSTOCK_CUDA=OFF)")
  return()
endif()
if(NOT penstock_cuda_wanted MATCHES "^(AUTO|ON)$")
  message(FATAL_ERROR "PENSTOCK_CUDA is \"${PENSTOCK_CUDA}\"; it takes AUTO, ON or OFF")
endif()

find_package(CUDAToolkit 12.0 QUIET)
if(NOT TARGET CUDA::cudart_static)
  if(NOT penstock_cuda_wanted STREQUAL "ON" AND NOT EXISTS /dev/nvidia0 AND NOT EXISTS /proc/driver/nvidia)
    message(STATUS "penstock: CUDA off: no CUDA toolkit and no NVIDIA GPU here (-DPENSTOCK_CUDA=ON fetches what the build needs)")
    return()
  endif()
  message(STATUS "penstock: no CUDA toolkit found; fetching one")
  execute_process(COMMAND "${CMAKE_CURRENT_LIST_DIR}/fetch_cuda.sh" OUTPUT_VARIABLE penstock_cuda_output
                  RESULT_VARIABLE penstock_cuda_result OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(penstock_cuda_result EQUAL 0)
    string(REGEX REPLACE ".*\n" "" CUDAToolkit_ROOT "${penstock_cuda_output}")
    # A failed search leaves answers behind that would be taken for good.
    unset(CUDAToolkit_NVCC_EXECUTABLE CACHE)
    unset(CUDA_CUDART CACHE)
    find_package(CUDAToolkit 12.0 QUIET)
  endif()
endif()

if(TARGET CUDA::cudart_static)
  set(PENSTOCK_HAVE_CUDA ON)
  message(STATUS "penstock: CUDA ${CUDAToolkit_VERSION} in ${CUDAToolkit_INCLUDE_DIRS}")
elseif(penstock_cuda_wanted STREQUAL "ON")
  message(FATAL_ERROR "PENSTOCK_CUDA=ON, but there is no CUDA toolkit (12.0 or later) and fetching one failed, see above. "
                      "Install a toolkit and name it with -DCUDAToolkit_ROOT=, or configure with -DPENSTOCK_CUDA=OFF")
else()
  message(WARNING "This machine has a GPU, but no CUDA toolkit (12.0 or later) was found or fetched, see above: building without CUDA")
endif()

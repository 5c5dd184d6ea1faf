# Decides whether the CUDA transfer is built: sets PENSTOCK_HAVE_CUDA and, if so, makes CUDA::cudart_static.
#
# A toolkit that the user has comes first (CUDAToolkit_ROOT, nvcc in PATH, /usr/local/cuda). Else, where this machine has an NVIDIA
# GPU or PENSTOCK_CUDA is ON, fetch_cuda.sh puts one into the user's cache folder. The static runtime loads on machines without a driver.
# Where the toolkit has a compiler (PENSTOCK_HAVE_NVCC) the few kernels are built too; the rest only calls the runtime from C++.
set(PENSTOCK_HAVE_CUDA OFF)
set(PENSTOCK_HAVE_NVCC OFF)
set(PENSTOCK_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities that kernels are compiled for, ascending; of the last one PTX is kept for later GPUs")

# penstock_cuda_object(VARIABLE SOURCE [nvcc argument...])
# Compiles a .cu file into an object for GPUs and host, and appends that to VARIABLE, a list of sources. No CUDA language is enabled:
# what links the object stays a C++ program.
function(penstock_cuda_object variable source)
  set(object "${CMAKE_CURRENT_BINARY_DIR}/${source}.o")
  set(gencode)
  foreach(architecture IN LISTS PENSTOCK_CUDA_ARCHITECTURES)
    list(APPEND gencode -gencode "arch=compute_${architecture},code=sm_${architecture}")
  endforeach()
  list(GET PENSTOCK_CUDA_ARCHITECTURES -1 last)
  list(APPEND gencode -gencode "arch=compute_${last},code=compute_${last}")
  add_custom_command(OUTPUT "${object}"
    COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} "${CUDAToolkit_NVCC_EXECUTABLE}" -ccbin "${CMAKE_CXX_COMPILER}" -std=c++20 -O3 -lineinfo
            -Xcompiler=-fPIC,-Wall,-Wextra,-fvisibility=hidden ${gencode} "-I${PROJECT_SOURCE_DIR}/include"
            "-I${PROJECT_SOURCE_DIR}/lib" ${ARGN} -MD -MF "${object}.d" -c "${CMAKE_CURRENT_SOURCE_DIR}/${source}" -o "${object}"
    DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${source}" DEPFILE "${object}.d" VERBATIM
    COMMENT "Building CUDA object ${source}.o")
  set_source_files_properties("${object}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set(${variable} ${${variable}} "${object}" PARENT_SCOPE)
endfunction()

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
  if(CUDAToolkit_NVCC_EXECUTABLE AND EXISTS "${CUDAToolkit_NVCC_EXECUTABLE}")
    set(PENSTOCK_HAVE_NVCC ON)
    message(STATUS "penstock: CUDA ${CUDAToolkit_VERSION} in ${CUDAToolkit_INCLUDE_DIRS}, kernels by ${CUDAToolkit_NVCC_EXECUTABLE}")
  else()
    message(STATUS "penstock: CUDA ${CUDAToolkit_VERSION} in ${CUDAToolkit_INCLUDE_DIRS}, without a compiler: TransformImages() works in host memory only")
  endif()
elseif(penstock_cuda_wanted STREQUAL "ON")
  message(FATAL_ERROR "PENSTOCK_CUDA=ON, but there is no CUDA toolkit (12.0 or later) and fetching one failed, see above. "
                      "Install a toolkit and name it with -DCUDAToolkit_ROOT=, or configure with -DPENSTOCK_CUDA=OFF")
else()
  message(WARNING "This machine has a GPU, but no CUDA toolkit (12.0 or later) was found or fetched, see above: building without CUDA")
endif()

# NVTX 3 is headers only (base/trace.h); a toolkit has them, and so has the nvidia-nvtx package that fetch_cuda.sh installs.
if(PENSTOCK_HAVE_CUDA)
  find_path(PENSTOCK_NVTX_INCLUDE_DIR nvtx3/nvToolsExt.h PATHS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
endif()

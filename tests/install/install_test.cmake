# Run by ctest with -P. Installs BUILD_DIR into WORK_DIR/prefix, builds and runs outside/ against it, and runs the installed tool.
# With SOURCE_DIR, BUILD_DIR is made first: the same library, shared.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " line)
    message(FATAL_ERROR "${line}\nended with ${status}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(configure "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/outside" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}"
              "-DCMAKE_BUILD_TYPE=${CONFIG}" "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix")
if(SANITIZE)
  list(APPEND configure "-DCMAKE_CXX_FLAGS=-fsanitize=${SANITIZE}")
endif()

if(SOURCE_DIR)
  set(CONFIG Debug)
  run("${CMAKE_COMMAND}" -S "${SOURCE_DIR}" -B "${BUILD_DIR}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${CXX_COMPILER}"
      "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" "-DCMAKE_BUILD_TYPE=${CONFIG}" -DCMAKE_CXX_FLAGS_DEBUG=-O0 -DBUILD_SHARED_LIBS=ON
      -DPENSTOCK_CUDA=OFF -DPENSTOCK_TESTS=OFF -DPENSTOCK_BENCH=OFF -DPENSTOCK_EXAMPLES=OFF)
  run("${CMAKE_COMMAND}" --build "${BUILD_DIR}" --config "${CONFIG}" --parallel 2)
endif()
file(REMOVE_RECURSE "${WORK_DIR}")
run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --config "${CONFIG}" --prefix "${WORK_DIR}/prefix")
run(${configure} -B "${WORK_DIR}/build" "-DWANTED_VERSION=${VERSION}" "-DEXAMPLE=${EXAMPLE}")
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build" --config "${CONFIG}")

file(WRITE "${WORK_DIR}/data/cat/one" "12345")
file(WRITE "${WORK_DIR}/data/dog/two" "678")
run("${WORK_DIR}/build/outside" "${WORK_DIR}/data")
file(WRITE "${WORK_DIR}/eight/a" "1")
foreach(name b c d e f g h)
  file(WRITE "${WORK_DIR}/eight/${name}" "22")
endforeach()
run("${WORK_DIR}/build/first_batch" "${WORK_DIR}/eight")

# A project that knows no C++, by find_package and by pkg-config.
set(c_flags "")
if(SANITIZE)
  set(c_flags "-fsanitize=${SANITIZE}")
endif()
run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/outside_c" -B "${WORK_DIR}/build_c" -G "${GENERATOR}" "-DCMAKE_C_COMPILER=${C_COMPILER}"
    "-DCMAKE_C_FLAGS=${c_flags}" "-DCMAKE_BUILD_TYPE=${CONFIG}" "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix" "-DEXAMPLE=${C_EXAMPLE}")
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build_c" --config "${CONFIG}")
run("${WORK_DIR}/build_c/from_c" "${WORK_DIR}/eight")
if(NOT output MATCHES "8 samples, 15 bytes")
  message(FATAL_ERROR "the C program read something else:\n${output}")
endif()
file(GLOB_RECURSE pc "${WORK_DIR}/prefix/*/penstock.pc")
get_filename_component(pc_dir "${pc}" DIRECTORY)
find_program(pkg_config pkg-config REQUIRED)
run("${CMAKE_COMMAND}" -E env "PKG_CONFIG_PATH=${pc_dir}" "${pkg_config}" --cflags --libs penstock)
separate_arguments(c_arguments UNIX_COMMAND "${output}")
get_filename_component(lib_dir "${pc_dir}" DIRECTORY)
run("${C_COMPILER}" ${c_flags} -std=c11 "${C_EXAMPLE}" ${c_arguments} "-Wl,-rpath,${lib_dir}" -o "${WORK_DIR}/from_c")
run("${WORK_DIR}/from_c" "${WORK_DIR}/eight")

run("${WORK_DIR}/prefix/bin/penstock" --version)
if(NOT output MATCHES "${VERSION}")
  message(FATAL_ERROR "the installed tool says that its version is: ${output}")
endif()
run("${WORK_DIR}/prefix/bin/penstock" index "${WORK_DIR}/data" --update)

# An install tree that satisfied any version would let a program meet an API that it does not know.
execute_process(COMMAND ${configure} -B "${WORK_DIR}/build_newer" -DWANTED_VERSION=99.0 RESULT_VARIABLE status
                OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(status EQUAL 0 OR NOT output MATCHES "99.0")
  message(FATAL_ERROR "find_package(penstock 99.0) was not refused by its version:\n${output}")
endif()
file(REMOVE_RECURSE "${WORK_DIR}")

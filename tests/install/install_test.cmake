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

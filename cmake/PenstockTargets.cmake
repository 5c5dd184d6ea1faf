# The functions that the rooms, tests and benchmarks are declared with. Flags go on targets, never on directories.

# Warnings, language level, sanitizers: what every target of this project gets.
function(penstock_flags target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON
                        CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wno-missing-field-initializers)
  if(BUILD_SHARED_LIBS)
    target_compile_definitions(${target} PRIVATE PENSTOCK_SHARED=1)  # export.h: shows what the shared library offers
  endif()
  if(PENSTOCK_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${PENSTOCK_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
    target_link_options(${target} PRIVATE -fsanitize=${PENSTOCK_SANITIZE})
  endif()
endfunction()

# penstock_room(NAME SOURCES file... [ROOMS room...] [LIBRARIES target...])
# One folder of lib/ as a static library penstock_<NAME>, for the tests of that room; lib/CMakeLists.txt joins them into
# penstock. ROOMS are the folders that this one may include.
function(penstock_room name)
  cmake_parse_arguments(room "" "" "SOURCES;ROOMS;LIBRARIES" ${ARGN})
  add_library(penstock_${name} STATIC ${room_SOURCES})
  penstock_flags(penstock_${name})
  target_include_directories(penstock_${name} PUBLIC "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/lib")
  list(TRANSFORM room_ROOMS PREPEND penstock_)
  target_link_libraries(penstock_${name} PUBLIC ${room_ROOMS} ${room_LIBRARIES})
  set_property(GLOBAL APPEND PROPERTY penstock_rooms ${name})
  set_property(GLOBAL APPEND PROPERTY penstock_room_libraries ${room_LIBRARIES})
endfunction()

# penstock_test(NAME SOURCES file... [LIBRARIES target...] [LABELS label...] [TIMEOUT seconds])
# A Catch2 program <NAME>_test. ctest runs each of its cases as a process of its own; exit status 77 is "skipped".
function(penstock_test name)
  cmake_parse_arguments(test "" "TIMEOUT" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  add_executable(${name}_test ${test_SOURCES})
  penstock_flags(${name}_test)
  target_link_libraries(${name}_test PRIVATE ${test_LIBRARIES} penstock_test_support)
  if(NOT test_LABELS)
    set(test_LABELS unit)
  endif()
  if(NOT test_TIMEOUT)
    set(test_TIMEOUT 120)
  endif()
  catch_discover_tests(${name}_test TEST_PREFIX "${name}: "
                       PROPERTIES LABELS "${test_LABELS}" SKIP_RETURN_CODE 77 TIMEOUT ${test_TIMEOUT})
endfunction()

# penstock_bench(NAME SOURCES file... [LIBRARIES target...])
# A Google benchmark program bench_<NAME>.
function(penstock_bench name)
  cmake_parse_arguments(bench "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(bench_${name} ${bench_SOURCES})
  penstock_flags(bench_${name})
  target_link_libraries(bench_${name} PRIVATE ${bench_LIBRARIES} benchmark::benchmark)
endfunction()

# What `cmake --install` puts in place: the library with its headers, the files that find_package(penstock) reads, and the
# command-line tool. The components are `development` and `runtime`.
include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/penstock")

install(TARGETS penstock EXPORT penstockTargets
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT development
        FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT development)
install(TARGETS penstock_c EXPORT penstockTargets
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT development
        FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT development)
# For C programs that are not built by CMake. It finds its tree by its own place, wherever that is put.
file(RELATIVE_PATH pc_to_prefix "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/penstock.pc.in" "${PROJECT_BINARY_DIR}/package/penstock.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/package/penstock.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT development)
install(EXPORT penstockTargets NAMESPACE penstock:: DESTINATION "${package_dir}" COMPONENT development)
if(TARGET penstock_cli)
  # The tool finds a shared libpenstock beside it, wherever the tree is put.
  file(RELATIVE_PATH bin_to_lib "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
  set_target_properties(penstock_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
  install(TARGETS penstock_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT runtime)
endif()

# A static library does not carry what it is linked to, so its users must find that too. A shared one keeps it to itself, but for Abseil,
# which the public headers include.
set(penstock_pkg_config_modules "")
set(penstock_packages Threads absl)
get_target_property(penstock_type penstock TYPE)
if(penstock_type STREQUAL "STATIC_LIBRARY")
  get_property(room_libraries GLOBAL PROPERTY penstock_room_libraries)
  list(REMOVE_DUPLICATES room_libraries)
  foreach(library IN LISTS room_libraries)
    if(library MATCHES "^PkgConfig::(.+)$")
      list(APPEND penstock_pkg_config_modules ${CMAKE_MATCH_1})
    elseif(library MATCHES "^CUDA::")
      list(APPEND penstock_packages CUDAToolkit)
    elseif(library MATCHES "^([^:]+)::")
      list(APPEND penstock_packages ${CMAKE_MATCH_1})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES penstock_packages)
endif()

set(penstock_cuda_root "")
if(PENSTOCK_HAVE_CUDA AND CUDAToolkit_BIN_DIR)
  get_filename_component(penstock_cuda_root "${CUDAToolkit_BIN_DIR}" DIRECTORY)
endif()
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/penstockConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/package/penstockConfig.cmake" INSTALL_DESTINATION "${package_dir}")
# Before 1.0 a minor version may change the API; SameMinorVersion keeps a program that asks for 0.1 from getting 0.2.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/package/penstockConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/package/penstockConfig.cmake" "${PROJECT_BINARY_DIR}/package/penstockConfigVersion.cmake"
        DESTINATION "${package_dir}" COMPONENT development)

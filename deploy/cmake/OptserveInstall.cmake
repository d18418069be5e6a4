# What `cmake --install` and `cpack` ship. Three components:
#
#   runtime  the binary, the demo model, configurations and guides, licences, SBOM
#   bundled  the Debian libraries that a bare root has not, in lib/optserve; in the tarball only
#   service  the systemd unit and /etc/optserve; in the .deb only
#
# The C and C++ libraries are never bundled: they belong to the system, and ours need none newer than Ubuntu 22.04's
# (tests/deploy/release_test.py holds every shipped file to that). CUDA's libraries are not either: deploy/README.md.

set(OPTSERVE_NOT_BUNDLED
  "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|stdc\\+\\+|gcc_s)\\.so" "^lib(cudart|cublas|cublasLt|nccl|cuda)\\.so")

# RPATH rather than RUNPATH: it also counts for what the libraries load in turn.
set_target_properties(optserve PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/optserve")
target_link_options(optserve PRIVATE -Wl,--disable-new-dtags)

install(TARGETS optserve RUNTIME_DEPENDENCY_SET optserve_libraries RUNTIME DESTINATION bin COMPONENT runtime)
install(RUNTIME_DEPENDENCY_SET optserve_libraries
  PRE_EXCLUDE_REGEXES ${OPTSERVE_NOT_BUNDLED}
  LIBRARY DESTINATION lib/optserve COMPONENT bundled)

install(DIRECTORY deploy/demo-model DESTINATION share/optserve COMPONENT runtime)
install(FILES CHANGELOG.md README.md deploy/release/copyright DESTINATION share/doc/optserve COMPONENT runtime)
install(DIRECTORY deploy/ DESTINATION share/doc/optserve/deploy COMPONENT runtime
  PATTERN demo-model EXCLUDE PATTERN cmake EXCLUDE PATTERN release EXCLUDE PATTERN "*.sh" EXCLUDE)

install(FILES deploy/systemd/optserve.service DESTINATION lib/systemd/system COMPONENT service EXCLUDE_FROM_ALL)
install(FILES deploy/systemd/optserve.json DESTINATION /etc/optserve COMPONENT service EXCLUDE_FROM_ALL)

# In no package: who has several machines builds with their MPI. `cmake --install BUILD --component ranks`.
if(OPTSERVE_MPI)
  install(TARGETS optserve-rank RUNTIME DESTINATION bin COMPONENT ranks EXCLUDE_FROM_ALL)
endif()

# Licences and SBOM of what is in the binary and beside it, from what the build really read and linked.
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND)
  install(CODE "
    execute_process(COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/deploy/release/inventory.py
        --build ${CMAKE_BINARY_DIR} --version ${PROJECT_VERSION}
        --out \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/share/doc/optserve\"
      COMMAND_ERROR_IS_FATAL ANY)" COMPONENT runtime)
else()
  install(CODE "message(FATAL_ERROR \"the licences of what is shipped need python3\")" COMPONENT runtime)
endif()

# `cmake --build` first: packing builds nothing, because `all` has the tests in it.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

set(CPACK_PACKAGE_NAME optserve)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_VENDOR "the optserve authors")
set(CPACK_PACKAGE_CONTACT "the optserve authors <optserve@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_FILE_NAME optserve-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_GENERATOR TGZ DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/release/conffiles)
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_SOURCE_DIR}/deploy/release/components.cmake)
include(CPack)

# What `cmake --install` and `cpack` ship. Five components:
#
#   runtime  the server, the demo model, configurations and guides
#   cli      optserve-cli, for who only asks a server
#   ranks    optserve-rank, for servers on several machines; with OPTSERVE_MPI
#   bundled  the Debian libraries that a bare root has not, in lib/optserve; in the tarball only
#   service  the systemd unit and /etc/optserve; in the .deb only
#
# The tarball has all but the last. There are three .debs: optserve, optserve-cli and optserve-mpi, so that neither a
# server of one machine nor a laptop needs an MPI. Each has the SBOM of its program and the licences of what is in it.
#
# The C and C++ libraries are never bundled: they belong to the system, and ours need none newer than Ubuntu 22.04's
# (tests/deploy/release_test.py holds every shipped file to that). Nor is MPI: the cluster's own knows its network and its
# scheduler. CUDA's libraries are not either: deploy/README.md.

set(OPTSERVE_NOT_BUNDLED
  "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|stdc\\+\\+|gcc_s)\\.so" "^lib(cudart|cublas|cublasLt|nccl|cuda)\\.so")

set(programs optserve optserve-cli)
if(OPTSERVE_MPI)
  list(APPEND programs optserve-rank)
endif()
# All that is shipped, and nothing else: cmake --build BUILD --target optserve_programs.
add_custom_target(optserve_programs DEPENDS ${programs})

# RPATH rather than RUNPATH: it also counts for what the libraries load in turn.
foreach(program IN LISTS programs)
  set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/optserve")
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
endforeach()

install(TARGETS optserve RUNTIME_DEPENDENCY_SET optserve_libraries RUNTIME DESTINATION bin COMPONENT runtime)
install(TARGETS optserve-cli RUNTIME_DEPENDENCY_SET optserve_libraries RUNTIME DESTINATION bin COMPONENT cli)
if(OPTSERVE_MPI)
  install(TARGETS optserve-rank RUNTIME DESTINATION bin COMPONENT ranks)  # its libraries but MPI's are optserve's
endif()
install(RUNTIME_DEPENDENCY_SET optserve_libraries
  PRE_EXCLUDE_REGEXES ${OPTSERVE_NOT_BUNDLED}
  LIBRARY DESTINATION lib/optserve COMPONENT bundled)

install(DIRECTORY deploy/demo-model DESTINATION share/optserve COMPONENT runtime)
install(FILES CHANGELOG.md README.md DESTINATION share/doc/optserve COMPONENT runtime)
install(DIRECTORY deploy/ DESTINATION share/doc/optserve/deploy COMPONENT runtime
  PATTERN demo-model EXCLUDE PATTERN cmake EXCLUDE PATTERN release EXCLUDE PATTERN "*.sh" EXCLUDE)

install(FILES deploy/systemd/optserve.service DESTINATION lib/systemd/system COMPONENT service EXCLUDE_FROM_ALL)
install(FILES deploy/systemd/optserve.json DESTINATION /etc/optserve COMPONENT service EXCLUDE_FROM_ALL)

# optserve_describe(PROGRAM COMPONENT PACKAGE): the licences and the SBOM of a program, from what the build really read
# and linked, where Debian looks for those of the package.
find_package(Python3 COMPONENTS Interpreter)
function(optserve_describe PROGRAM COMPONENT PACKAGE)
  set(documentation share/doc/${PACKAGE})
  install(FILES deploy/release/copyright DESTINATION ${documentation} COMPONENT ${COMPONENT})
  if(Python3_FOUND)
    install(CODE "
      execute_process(COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/deploy/release/inventory.py
          --build ${CMAKE_BINARY_DIR} --program ${PROGRAM} --package ${PACKAGE} --version ${PROJECT_VERSION}
          --out \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${documentation}\"
        COMMAND_ERROR_IS_FATAL ANY)" COMPONENT ${COMPONENT})
  else()
    install(CODE "message(FATAL_ERROR \"the licences of what is shipped need python3\")" COMPONENT ${COMPONENT})
  endif()
endfunction()
optserve_describe(optserve runtime optserve)
optserve_describe(optserve-cli cli optserve-cli)
if(OPTSERVE_MPI)
  optserve_describe(optserve-rank ranks optserve-mpi)
endif()

# optserve_complete(PROGRAM COMPONENT): what bash completes, as the program itself says it.
function(optserve_complete PROGRAM COMPONENT)
  install(CODE "
    set(folder \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/share/bash-completion/completions\")
    file(MAKE_DIRECTORY \${folder})
    execute_process(COMMAND ${CMAKE_BINARY_DIR}/${PROGRAM} completion bash OUTPUT_FILE \${folder}/${PROGRAM}
      COMMAND_ERROR_IS_FATAL ANY)" COMPONENT ${COMPONENT})
endfunction()
optserve_complete(optserve runtime)
optserve_complete(optserve-cli cli)

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
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_OPTSERVE_PACKAGE_NAME optserve)
set(CPACK_DEBIAN_OPTSERVE_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/release/conffiles)
set(CPACK_COMPONENT_OPTSERVE_DESCRIPTION "The server, its engine and a small model to try them with.")
set(CPACK_DEBIAN_CLI_PACKAGE_NAME optserve-cli)
set(CPACK_COMPONENT_CLI_DESCRIPTION "The command line that asks a server; needs no engine and no model.")
set(CPACK_DEBIAN_MPI_PACKAGE_NAME optserve-mpi)
set(CPACK_DEBIAN_MPI_PACKAGE_DEPENDS "optserve (= ${PROJECT_VERSION}), openmpi-bin")
set(CPACK_COMPONENT_MPI_DESCRIPTION "What a server starts on several machines, by --engine-launcher.")
set(CPACK_OPTSERVE_MPI ${OPTSERVE_MPI})
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_SOURCE_DIR}/deploy/release/components.cmake)
include(CPack)

# The two helpers that every CMakeLists.txt in the tree uses, and the flags that all targets share.

add_library(optserve_flags INTERFACE)
target_include_directories(optserve_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(optserve_flags INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers)

# Nothing that is shipped says where it was built: __FILE__ is engine/engine.cc, whatever the path of the tree. Paths for
# debuggers stay whole. The last option that matches counts.
foreach(prefix ${CMAKE_SOURCE_DIR}/= ${CMAKE_BINARY_DIR}/=build/)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${prefix}>
                      $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fmacro-prefix-map=${prefix}>)
endforeach()

if(OPTSERVE_SANITIZE)
  target_compile_options(optserve_flags INTERFACE -fsanitize=${OPTSERVE_SANITIZE} -fno-omit-frame-pointer
                                                  -fno-sanitize-recover=all)
  target_link_options(optserve_flags INTERFACE -fsanitize=${OPTSERVE_SANITIZE})
endif()
if(OPTSERVE_SANITIZE MATCHES "thread")
  target_compile_definitions(optserve_flags INTERFACE OPTSERVE_TSAN=1)
  target_compile_options(optserve_flags INTERFACE -Wno-tsan)
endif()

# optserve_library(NAME SRCS a.cc b.cc DEPS other libs): a static library; its dependencies are public, because headers
# include headers. What a folder may depend on is the table "who may include whom" in engine/README.md.
function(optserve_library NAME)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_library(${NAME} STATIC ${ARG_SRCS})
  target_link_libraries(${NAME} PUBLIC optserve_flags ${ARG_DEPS})
endfunction()

# For the few targets that include engine/util/fault_injection.h, so that all others are the same in every build.
function(optserve_faults)
  if(OPTSERVE_FAULTS)
    foreach(name IN LISTS ARGN)
      target_compile_definitions(${name} PRIVATE OPTSERVE_FAULTS)
    endforeach()
  endif()
endfunction()

# optserve_test(NAME SRCS a_test.cc DEPS libs LABELS unit): one GoogleTest binary, one ctest entry; the target
# optserve_tests builds them all.
#
# Tests labelled grpc do not exist under ThreadSanitizer: Debian's gRPC and protobuf are not instrumented, so their locks
# are invisible to it and correct code looks racy.
add_custom_target(optserve_tests)
function(optserve_test NAME)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if("grpc" IN_LIST ARG_LABELS AND OPTSERVE_SANITIZE MATCHES "thread")
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${NAME} ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE optserve_flags ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  add_dependencies(optserve_tests ${NAME})
  add_test(NAME ${NAME} COMMAND ${NAME} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

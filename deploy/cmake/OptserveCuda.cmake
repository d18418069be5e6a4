# The CUDA language and the flags of .cu files. Which toolkit: CMAKE_CUDA_COMPILER, set by the presets cuda and cuda12.

# One CUDA runtime in the process: the shared one, or that of this toolkit linked in, for a program that runs where there
# is another toolkit.
option(OPTSERVE_CUDA_STATIC_RUNTIME "Link the CUDA runtime into the programs" OFF)
if(OPTSERVE_CUDA_STATIC_RUNTIME)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(OPTSERVE_CUDA_RUNTIME CUDA::cudart_static)
else()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
  set(OPTSERVE_CUDA_RUNTIME CUDA::cudart)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
# CMake 3.25 does not know that nvcc 12 and 13 speak C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)

# A kernel that spills its registers does not compile, whatever the architecture.
add_library(optserve_cuda_flags INTERFACE)
target_include_directories(optserve_cuda_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(optserve_cuda_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr --Werror=all-warnings -Xptxas=-warn-spills,-warn-lmem-usage>)
# Programs of less than half the size (2.6 for 6.1 MB); nvcc 12.4 has no such choice.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  target_compile_options(optserve_cuda_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
endif()

# CUDA as a language, for common/kernels/cuda and common/backend/cuda (MOEPOOL_CUDA). CMAKE_CUDA_ARCHITECTURES chooses
# what is compiled for; its default is the cards that moepool is for, from sm_80 on, and PTX for those to come.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(MOEPOOL_NVCC nvcc HINTS $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(NOT MOEPOOL_NVCC)
    message(FATAL_ERROR "MOEPOOL_CUDA needs nvcc, which is neither on the path nor in /usr/local/cuda/bin; "
                        "CMAKE_CUDA_COMPILER names another")
  endif()
  set(CMAKE_CUDA_COMPILER ${MOEPOOL_NVCC})
endif()
if(NOT DEFINED CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real 120-real 120-virtual)
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "MOEPOOL_CUDA needs CUDA 13.0; ${CMAKE_CUDA_COMPILER} is of ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()

if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # which CMake 3.25 does not know of nvcc
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # a program starts where neither CUDA nor a driver is installed
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -lineinfo")  # checks stay on: no -DNDEBUG

# The device's arithmetic is the CPU's to the last bit: IEEE 754 in the order that is written. The host's half of a file is
# g++'s, with the flags of the rest; -Wextra is left out, since it warns of what nvcc generates.
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;-prec-div=true;-prec-sqrt=true;-ftz=false>"
                    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-ffp-contract=off>")
if(MOEPOOL_WERROR)
  # Those of each of nvcc's phases, and those of g++.
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
endif()

// The operators as a build with CUDA has them.
#define FULGUR_CUDA
#include "ops/dispatch.cpp"

/* The pair of programs with Botan, whose interface is in C++. */
#define LIBRARY "tls-botan.h"
#include "tls-pair.c"

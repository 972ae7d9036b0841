/* The kernels, compiled once for each instruction set; one is chosen at run time. */
#pragma once

#include "cache.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(a) JOIN(a, LEVEL)
#define QUOTE_(a) #a
#define QUOTE(a) QUOTE_(a)

/* The variants of `dot`, the multiplication of int8. */
#define PLAIN 0
#define AVX2 1
#define VNNI 2
#define NEON 3
#define DOTPROD 4

#define LEVEL plain
#define LANES 4
#define TILE 2
#define DOT PLAIN
#include "kernels.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LEVEL avx2
#define LANES 8
#define TILE 2
#define DOT AVX2
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vnni")
#endif
#define LEVEL avx512
#define LANES 16
#define TILE 4
#define DOT VNNI
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#elif defined(__aarch64__)

#define LEVEL neon
#define LANES 4
#define TILE 2
#define DOT NEON
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define LEVEL dotprod
#define LANES 4
#define TILE 2
#define DOT DOTPROD
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

/* From the slowest to the fastest; a level's number is its index. */
static const Kernels *const LEVELS[] = {
    &kernels_plain,
#if defined(__x86_64__)
    &kernels_avx2,
    &kernels_avx512,
#elif defined(__aarch64__)
    &kernels_neon,
    &kernels_dotprod,
#endif
};
enum { LEVEL_COUNT = sizeof LEVELS / sizeof *LEVELS };

/* The name of a level, or NULL if there is no level of this number. */
EXPORT const char *musicgen_level(int level) {
    return level >= 0 && level < LEVEL_COUNT ? LEVELS[level]->name : NULL;
}

/* Whether this processor and operating system can run a level. */
EXPORT int musicgen_runs(int level) {
    if (level == 0) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == 1) return avx2;
    if (level == 2)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
    if (level == 1) return 1;
    if (level == 2) return (getauxval(AT_HWCAP) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#endif
    return 0;
}

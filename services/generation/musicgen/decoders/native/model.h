/* The data structures of a model, and the allocation of its memory. */
#pragma once

#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS static inline __attribute__((always_inline))

enum { BLOCK = 32 };         /* outputs of a matrix that are computed together */
enum { GROUP = 128 };        /* inputs that share a scale */
enum { KEY_BLOCK = 16 };     /* positions whose keys are interleaved */
enum { UNSHARED_ROWS = 4 };  /* every thread prepares so few rows itself, which is faster than waiting */
enum { FOLDED_STATES = 32 }; /* the longest prompt that is folded into the weights (prompt.h) */

enum format { FLOAT32, INT8 };

/* [blocks][inputs][BLOCK] floats; or, in int8, for each block and group [inputs / 4][BLOCK][4]
 * values followed by [BLOCK] bfloat16 scales. */
typedef struct {
    char *data;
    size_t block_bytes;
    int blocks, inputs;
} Matrix;

typedef struct {
    float *weight, *bias;
} Norm;

typedef struct {
    Norm self_norm, cross_norm, last_norm;
    Matrix qkv, self_out, cross_q, cross_kv, cross_out, fc1, fc2;
} Layer;

/* Rows as the input of a matrix: floats, or int8 with a scale and a sum for each group. */
typedef struct {
    const float *x;
    float *copy;
    int8_t *q;
    float *scales;
    int32_t *sums;
    size_t stride;
    size_t groups;
} Inputs;

/* The keys and values of a head, in the layout of cache.h. */
typedef struct {
    char *keys, *values;
    float *scales; /* of int8 values */
} Cache;

/* The prompt of a slot (prompt.h): keys and values for `capacity` positions; or, if `padded` is not 0,
 * matrices for `padded` positions, which are stored elsewhere. */
typedef struct {
    char *data;
    int length, capacity, padded;
} Conditioning;

/* Consecutive pairs whose attention to prompts is computed together: pairs of one slot if its prompt is
 * folded, else pairs of any slots without folded prompts. */
typedef struct {
    int first, rows, padded;
    int first_item; /* of its query items among those of all batches */
} Batch;

/* Mirrored by `Shape` in library.py. */
typedef struct {
    int32_t layers, hidden, heads, ffn, codebooks, codebook_size, cross_attention;
    int32_t slots, positions, format, threads, level;
} Shape;

/* What to do with the outputs of a matrix. */
enum sink_kind { STORE, ADD, GELU };
typedef struct {
    enum sink_kind kind;
    float *out;
    size_t stride;
} Sink;

typedef struct {
    const char *name;
    float (*quantise)(int8_t *to, const float *from, int width, int32_t *sum);
    void (*prepare)(const Inputs *to, int row, const float *x, const Norm *norm, int width, int format);
    void (*multiply)(const Matrix *m, int first, int last, const Inputs *in, int rows, int format,
                     const Sink *to);
    void (*attend)(Cache cache, int format, const float *query, int length, int head_size,
                   float *scores, float *out);
    void (*softmax)(float *to, const float *scores, int heads, int length, int padded);
    void (*pack)(char *to, const float *from, size_t stride, int width);
    void (*unpack)(float *to, const char *weights, int width);
    void (*fold)(float *to, size_t stride, int rows, int width, int depth, const float *w,
                 size_t by_row, size_t by_depth, const float *x, size_t by_x);
} Kernels;

typedef struct Allocation {
    struct Allocation *next;
    void *data;
    size_t bytes;
    int mapped;
} Allocation;

typedef struct Model {
    Shape shape;
    const Kernels *kernels;
    int head_size, capacity, max_rows, max_width, max_length, max_folded;
    size_t element_bytes; /* bytes of a value of a key */
    Layer *layers;
    Norm norm;
    Matrix heads;
    float *embeddings, *sinusoids;
    char *cache, *folded;
    Conditioning *conditioning;
    Allocation *allocations;

    /* The current step: row r belongs to pair r % pairs, and is conditional if r < pairs. */
    int pairs, batch_count, query_items;
    int is_prefill; /* all pairs belong to one slot, at consecutive positions */
    Batch *batches;
    const int32_t *slots, *positions;
    float *hidden, *fused, *mixed, *inner, *logits;
    Inputs shared_inputs, *thread_inputs;
    float **scores;

    /* The threads run `job` and synchronise with `barrier`. */
    void (*job)(struct Model *, int thread);
    const void *argument;
    pthread_t *threads;
    pthread_mutex_t start_lock;
    atomic_uint arrived, round, sleepers;
    atomic_int taken;
} Model;

/* Zeros that are freed with the model. Large allocations use memory only where they are touched. */
static void *allocate(Model *m, size_t bytes, int huge) {
    Allocation *allocation = calloc(1, sizeof *allocation);
    if (!allocation) return NULL;
    allocation->bytes = bytes / 64 * 64 + 64; /* never 0 */
    allocation->mapped = bytes >= 1 << 20;
    if (allocation->mapped) {
        allocation->data =
            mmap(NULL, allocation->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (allocation->data == MAP_FAILED) allocation->data = NULL;
        else if (huge) madvise(allocation->data, allocation->bytes, MADV_HUGEPAGE);
    } else if ((allocation->data = aligned_alloc(64, allocation->bytes))) {
        memset(allocation->data, 0, allocation->bytes);
    }
    if (!allocation->data) {
        free(allocation);
        return NULL;
    }
    allocation->next = m->allocations;
    m->allocations = allocation;
    return allocation->data;
}

/* Prefetches data that is read once per step, with a hint not to evict what is needed again: the KV
 * cache, and the code and data of the caller. The address may be past the end. */
ALWAYS void fetch(const void *at, uintptr_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead), 0, 0);
}

/* What a model is made of, and where its memory comes from. */
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

enum { BLOCK = 32 };  /* outputs of a matrix that are computed together */
enum { GROUP = 128 }; /* inputs that share a scale */
enum { KEYS = 16 };   /* positions whose keys lie side by side */
enum { ALONE = 4 };   /* up to so many rows, preparing them twice is faster than waiting */
enum { FOLDED = 32 }; /* the longest prompt whose states become part of the weights */

enum format { FLOAT32, INT8 };

/* [blocks][inputs][BLOCK] floats; or, in int8, for each block and group [inputs / 4][BLOCK][4]
 * values and [BLOCK] bfloat16 scales behind them. */
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

/* Rows as a matrix reads them: floats, or int8 with a scale and a sum for each group. */
typedef struct {
    const float *x;
    float *copy;
    int8_t *q;
    float *scales;
    int32_t *sums;
    size_t stride;
    size_t groups;
} Inputs;

/* Of a head; cache.h says how they lie. */
typedef struct {
    char *keys, *values;
    float *scales; /* of the values, beside int8 */
} Cache;

/* What a slot's prompt has become: keys and values for `capacity` positions, or, in a prompt that is
 * folded, matrices for `padded` positions. See prompt.h. */
typedef struct {
    char *data;
    int length, capacity, padded;
} Conditioning;

/* Places that follow each other and attend to their prompts together: those of a slot whose prompt is
 * folded, or any whose prompts are not. */
typedef struct {
    int first, rows, padded;
    int queries; /* the first piece of its queries among all */
} Run;

/* Mirrored by `Shape` in library.py. */
typedef struct {
    int32_t layers, hidden, heads, ffn, codebooks, codebook_size, cross_attention;
    int32_t slots, positions, format, threads, level;
} Shape;

/* Where the outputs of a matrix go. */
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

typedef struct Piece {
    struct Piece *next;
    void *data;
    size_t bytes;
    int mapped;
} Piece;

typedef struct Model {
    Shape shape;
    const Kernels *kernels;
    int head_size, capacity, most_rows, widest, longest, longest_folded;
    size_t element; /* bytes of a value of a key */
    Layer *layers;
    Norm norm;
    Matrix heads;
    float *embeddings, *sinusoids;
    char *cache, *folded;
    Conditioning *conditioning;
    Piece *pieces;

    /* The rows at work: row r is of place r % places, and conditional while r < places. */
    int places, run_count, queries;
    int is_ahead; /* places are of one slot, at positions that follow each other */
    Run *runs;
    const int32_t *slots, *at;
    float *hidden, *fused, *mixed, *inner, *logits;
    Inputs shared, *own;
    float **scores;

    /* The threads: they run `job`, and meet at `barrier`. */
    void (*job)(struct Model *, int worker);
    const void *argument;
    pthread_t *threads;
    pthread_mutex_t gate;
    atomic_uint arrived, round, sleepers;
    atomic_int taken;
} Model;

/* Zeros that live as long as the model. Large pieces take memory only where they are touched. */
static void *grab(Model *m, size_t bytes, int huge) {
    Piece *piece = calloc(1, sizeof *piece);
    if (!piece) return NULL;
    piece->bytes = bytes / 64 * 64 + 64; /* never nothing */
    piece->mapped = bytes >= 1 << 20;
    if (piece->mapped) {
        piece->data =
            mmap(NULL, piece->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (piece->data == MAP_FAILED) piece->data = NULL;
        else if (huge) madvise(piece->data, piece->bytes, MADV_HUGEPAGE);
    } else if ((piece->data = aligned_alloc(64, piece->bytes))) {
        memset(piece->data, 0, piece->bytes);
    }
    if (!piece->data) {
        free(piece);
        return NULL;
    }
    piece->next = m->pieces;
    m->pieces = piece;
    return piece->data;
}

/* Some bytes ahead, which may be past the end: no more than a hint. What is read once a step is not
 * to take the place of what is needed again: keys and values, and the code and data of the caller. */
ALWAYS void fetch(const void *at, uintptr_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead), 0, 0);
}

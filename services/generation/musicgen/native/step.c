/* The step of a MusicGen decoder on the CPU: all layers for a few rows, with their keys and values.
 *
 * A step reads every weight once and does little with it, so that it takes as long as the memory
 * does: weights are int8 in groups of 128 (or float, in the exact mode), laid out in the order in
 * which they are read, and threads meet only where a row must be whole.
 *
 * Every slot is a pair of rows: with the prompt and without. A prompt that is taken in ahead of
 * the steps is nothing but more rows of one slot, at positions that follow each other. The
 * arithmetic of a row never depends on how many rows there are: neighbours cannot change a bit.
 *
 * This file compiles its kernels once for each instruction set, by including itself at the place
 * marked LEVELS; which one runs is chosen when a model is made. Nothing here needs -march.
 */
#ifndef LEVEL

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

enum format { FLOAT32, INT8 };

/* ---------------------------------------------------------------------------- the parts of a model */

/* [blocks][inputs][BLOCK] floats; or, in int8, for each block and group [inputs / 4][BLOCK][4]
 * values and [BLOCK] float scales behind them. */
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

/* Keys lie as [position / KEYS][value][position % KEYS], values as [position][value]: both are read
 * in order. Elements are bfloat16 beside int8 weights, else float. */
typedef struct {
    char *keys, *values;
} Cache;

typedef struct {
    char *data;
    int length, capacity;
} Conditioning;

/* Mirrored by `Shape` in library.py. */
typedef struct {
    int32_t layers, hidden, heads, ffn, codebooks, codebook_size, cross_attention;
    int32_t slots, positions, format, threads, level;
} Shape;

/* Where the outputs of a matrix go. */
enum sink_kind { STORE, ADD, GELU, SELF, CROSS };
typedef struct {
    enum sink_kind kind;
    float *out;
    size_t stride;
    const struct Model *model;
    int layer;
    int slot, first; /* CROSS: whose conditioning, and the position of row 0 */
} Sink;

typedef struct {
    const char *name;
    void (*prepare)(const Inputs *to, int row, const float *x, const Norm *norm, int width, int format);
    void (*multiply)(const Matrix *m, int first, int last, const Inputs *in, int rows, int format,
                     const Sink *to);
    void (*attend)(Cache cache, int format, const float *query, int length, int head_size,
                   float *scores, float *out);
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
    int head_size, capacity, most_rows, widest, longest;
    size_t element; /* bytes of a key's value */
    Layer *layers;
    Norm norm;
    Matrix heads;
    float *embeddings, *sinusoids;
    char *cache;
    Conditioning *conditioning;
    Piece *pieces;

    /* The rows at work: row r is of place r % places, and conditional while r < places. */
    int places;
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
    piece->bytes = (bytes + 63) / 64 * 64;
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

/* ----------------------------------------------------------------------------------- the threads */

ALWAYS void pause_a_little(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Some bytes ahead, which may be past the end: no more than a hint. What is read once a step is not
 * to take the place of what is needed again: keys and values, and the code and data of the caller. */
ALWAYS void fetch(const void *at, uintptr_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead), 0, 0);
}

static void futex(atomic_uint *word, int operation, unsigned value) {
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Waits for all threads. The phases between two of these take microseconds, so that a thread looks
 * for a while before it sleeps; on a busy machine it soon gives its core to the one it waits for. */
static void barrier(Model *m) {
    enum { LOOKS = 4000 };
    unsigned round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == (unsigned)m->shape.threads) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->taken, 0);
        atomic_store(&m->round, round + 1);
        if (atomic_load(&m->sleepers)) futex(&m->round, FUTEX_WAKE, INT_MAX);
        return;
    }
    for (int i = 0; i < LOOKS; i++) {
        if (atomic_load_explicit(&m->round, memory_order_acquire) != round) return;
        pause_a_little();
    }
    atomic_fetch_add(&m->sleepers, 1);
    while (atomic_load(&m->round) == round) futex(&m->round, FUTEX_WAIT, round);
    atomic_fetch_sub(&m->sleepers, 1);
}

/* A share of what is left of `total` items; shares shrink, so that cores of unlike speed, or busy
 * with something else, end together. A barrier must follow the last one. */
static int take(Model *m, int total, int *first, int *last) {
    int start = atomic_load_explicit(&m->taken, memory_order_relaxed), count;
    do {
        if (start >= total) return 0;
        count = m->shape.threads == 1 ? total : (total - start) / (2 * m->shape.threads);
        if (count < 1) count = 1;
    } while (!atomic_compare_exchange_weak(&m->taken, &start, start + count));
    *first = start;
    *last = start + count;
    return 1;
}

/* Runs a job on all threads, the caller's included. */
static void run(Model *m, void (*job)(Model *, int), const void *argument) {
    m->job = job;
    m->argument = argument;
    barrier(m);
    job(m, 0);
    barrier(m);
}

typedef struct {
    Model *model;
    int worker;
} Start;

static void *work(void *argument) {
    Start start = *(Start *)argument;
    free(argument);
    /* Nobody may come to the barrier before it is known for how many. */
    pthread_mutex_lock(&start.model->gate);
    pthread_mutex_unlock(&start.model->gate);
    for (;;) {
        barrier(start.model);
        if (!start.model->job) return NULL;
        start.model->job(start.model, start.worker);
        barrier(start.model);
    }
}

/* ------------------------------------------------------------------------------ keys and values */

ALWAYS uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void put(char *at, size_t index, float value, int format) {
    if (format == INT8) ((uint16_t *)at)[index] = to_bfloat16(value);
    else ((float *)at)[index] = value;
}

static Cache self_cache(const Model *m, int slot, int guided, int layer, int head) {
    size_t plane = (size_t)m->capacity * m->head_size * m->element;
    size_t index = (((size_t)slot * 2 + guided) * m->shape.layers + layer) * m->shape.heads + head;
    char *keys = m->cache + index * 2 * plane;
    return (Cache){keys, keys + plane};
}

static Cache cross_cache(const Model *m, int slot, int layer, int head) {
    const Conditioning *c = &m->conditioning[slot];
    size_t plane = (size_t)c->capacity * m->head_size * m->element;
    char *keys = c->data + ((size_t)layer * m->shape.heads + head) * 2 * plane;
    return (Cache){keys, keys + plane};
}

static void put_key(const Model *m, Cache c, int position, int value, const float *from) {
    size_t start = ((size_t)(position / KEYS) * m->head_size + value) * KEYS + position % KEYS;
    for (int i = 0; i < 16; i++) put(c.keys, start + (size_t)i * KEYS, from[i], m->shape.format);
}

static void put_value(const Model *m, Cache c, int position, int value, const float *from) {
    size_t start = (size_t)position * m->head_size + value;
    for (int i = 0; i < 16; i++) put(c.values, start + i, from[i], m->shape.format);
}

/* A block of fused queries, keys and values: 16 outputs at a time are of one head. */
static void sink_self(const Sink *to, int block, int row, const float *out) {
    const Model *m = to->model;
    int hidden = m->shape.hidden, part = block * BLOCK / hidden, place = row % m->places;
    if (part == 0) {
        memcpy(to->out + row * to->stride + (size_t)block * BLOCK, out, BLOCK * sizeof *out);
        return;
    }
    for (int i = 0; i < BLOCK; i += 16) {
        int output = block * BLOCK % hidden + i;
        Cache c = self_cache(m, m->slots[place], row >= m->places, to->layer, output / m->head_size);
        (part == 1 ? put_key : put_value)(m, c, m->at[place], output % m->head_size, out + i);
    }
}

/* The same of the conditioning, where there are no queries. */
static void sink_cross(const Sink *to, int block, int row, const float *out) {
    const Model *m = to->model;
    int hidden = m->shape.hidden, part = block * BLOCK / hidden;
    for (int i = 0; i < BLOCK; i += 16) {
        int output = block * BLOCK % hidden + i;
        Cache c = cross_cache(m, to->slot, to->layer, output / m->head_size);
        (part == 0 ? put_key : put_value)(m, c, to->first + row, output % m->head_size, out + i);
    }
}

/* ---------------------------------------------------------------------------------------- LEVELS */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(a) JOIN(a, LEVEL)
#define QUOTE_(a) #a
#define QUOTE(a) QUOTE_(a)

/* How a level multiplies int8: see `dot`. */
#define PLAIN 0
#define AVX2 1
#define VNNI 2
#define NEON 3
#define DOTPROD 4

#define LEVEL plain
#define LANES 4
#define TILE 2
#define DOT PLAIN
#include "step.c"

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
#include "step.c"
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
#include "step.c"
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
#include "step.c"
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
#include "step.c"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

/* From the slowest; a level's number is its place here. */
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

/* The name of a level, or NULL where there is none of that number. */
EXPORT const char *musicgen_level(int level) {
    return level >= 0 && level < LEVEL_COUNT ? LEVELS[level]->name : NULL;
}

/* Whether this processor, and its operating system, can run a level. */
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

/* --------------------------------------------------------------------------------- the whole step */

/* Rows as the next matrix reads them. Few rows are prepared by each thread for itself. */
static const Inputs *prepare(Model *m, int worker, const float *x, int width, const Norm *norm,
                             int rows) {
    Inputs *to = rows <= ALONE ? &m->own[worker] : &m->shared;
    int first = 0, last = rows;
    if (to == &m->shared) {
        while (take(m, rows, &first, &last))
            for (int r = first; r < last; r++)
                m->kernels->prepare(to, r, x + (size_t)r * width, norm, width, m->shape.format);
        barrier(m);
    } else {
        for (int r = 0; r < rows; r++)
            m->kernels->prepare(to, r, x + (size_t)r * width, norm, width, m->shape.format);
    }
    return to;
}

static void multiply(Model *m, const Matrix *matrix, const Inputs *in, int rows, const Sink *to) {
    int first, last;
    while (take(m, matrix->blocks, &first, &last))
        m->kernels->multiply(matrix, first, last, in, rows, m->shape.format, to);
    barrier(m);
}

static void self_attention(Model *m, int worker, int layer) {
    int first, last, heads = m->shape.heads, size = m->head_size;
    while (take(m, 2 * m->places * heads, &first, &last))
        for (int item = first; item < last; item++) {
            int row = item / heads, head = item % heads, place = row % m->places;
            size_t at = (size_t)row * m->shape.hidden + (size_t)head * size;
            Cache cache = self_cache(m, m->slots[place], row >= m->places, layer, head);
            m->kernels->attend(cache, m->shape.format, m->fused + at, m->at[place] + 1, size,
                               m->scores[worker], m->mixed + at);
        }
    barrier(m);
}

/* Queries and attention of a few heads at a time: prompts are short, so that a barrier between the
 * two would be most of the wait. */
static void cross_attention(Model *m, int worker, int layer, const Inputs *in) {
    const Matrix *matrix = &m->layers[layer].cross_q;
    int size = m->head_size, unit = size % BLOCK ? 2 : 1, blocks = unit * size / BLOCK, first, last;
    Sink to = {.kind = STORE, .out = m->fused, .stride = m->shape.hidden};
    while (take(m, m->shape.heads / unit, &first, &last)) {
        m->kernels->multiply(matrix, first * blocks, last * blocks, in, m->places, m->shape.format, &to);
        for (int row = 0; row < m->places; row++)
            for (int head = first * unit; head < last * unit; head++) {
                size_t at = (size_t)row * m->shape.hidden + (size_t)head * size;
                int slot = m->slots[row];
                m->kernels->attend(cross_cache(m, slot, layer, head), m->shape.format, m->fused + at,
                                   m->conditioning[slot].length, size, m->scores[worker],
                                   m->mixed + at);
            }
    }
    barrier(m);
}

static void forward(Model *m, int worker) {
    int hidden = m->shape.hidden, ffn = m->shape.ffn, rows = 2 * m->places;
    Sink add = {.kind = ADD, .out = m->hidden, .stride = hidden};
    Sink gelu = {.kind = GELU, .out = m->inner, .stride = ffn};
    for (int i = 0; i < m->shape.layers; i++) {
        const Layer *l = &m->layers[i];
        Sink self = {.kind = SELF, .out = m->fused, .stride = hidden, .model = m, .layer = i};
        multiply(m, &l->qkv, prepare(m, worker, m->hidden, hidden, &l->self_norm, rows), rows, &self);
        self_attention(m, worker, i);
        multiply(m, &l->self_out, prepare(m, worker, m->mixed, hidden, NULL, rows), rows, &add);
        if (m->shape.cross_attention) {
            int some = m->places;
            cross_attention(m, worker, i, prepare(m, worker, m->hidden, hidden, &l->cross_norm, some));
            multiply(m, &l->cross_out, prepare(m, worker, m->mixed, hidden, NULL, some), some, &add);
        }
        multiply(m, &l->fc1, prepare(m, worker, m->hidden, hidden, &l->last_norm, rows), rows, &gelu);
        multiply(m, &l->fc2, prepare(m, worker, m->inner, ffn, NULL, rows), rows, &add);
    }
    if (!m->logits) return;
    Sink logits = {.kind = STORE, .out = m->logits, .stride = (size_t)m->heads.blocks * BLOCK};
    multiply(m, &m->heads, prepare(m, worker, m->hidden, hidden, &m->norm, rows), rows, &logits);
}

/* The first hidden values of a row: of its tokens, which both rows of a place share, or its state. */
static void embed(Model *m, int row, const int64_t *tokens, const float *states) {
    const Shape *s = &m->shape;
    int place = row % m->places;
    size_t hidden = s->hidden;
    float *to = m->hidden + row * hidden;
    if (states) memcpy(to, states + row * hidden, hidden * sizeof *to);
    else memset(to, 0, hidden * sizeof *to);
    for (int k = 0; tokens && k < s->codebooks; k++) {
        size_t index = (size_t)k * (s->codebook_size + 1) + tokens[place * s->codebooks + k];
        for (size_t i = 0; i < hidden; i++) to[i] += m->embeddings[index * hidden + i];
    }
    for (size_t i = 0; i < hidden; i++) to[i] += m->sinusoids[m->at[place] * hidden + i];
}

/* Both rows of `places` places, each a slot and a position up to which keys and values are there or
 * come with it. Either tokens [places][codebooks], or the states [2][places][hidden] of a prefix.
 * `logits` is [2][places][codebooks][codebook_size], or NULL. 0, or -1 for what is out of range. */
EXPORT int musicgen_forward(Model *m, int places, const int32_t *slots, const int32_t *positions,
                            const int64_t *tokens, const float *states, float *logits) {
    const Shape *s = &m->shape;
    if (places < 1 || 2 * places > m->most_rows || !tokens == !states) return -1;
    for (int i = 0; i < places; i++) {
        if (slots[i] < 0 || slots[i] >= s->slots) return -1;
        if (positions[i] < 0 || positions[i] >= s->positions) return -1;
        if (s->cross_attention && !m->conditioning[slots[i]].length) return -1;
    }
    for (int i = 0; tokens && i < places * s->codebooks; i++)
        if (tokens[i] < 0 || tokens[i] > s->codebook_size) return -1;
    m->places = places;
    m->slots = slots;
    m->at = positions;
    m->logits = logits;
    for (int row = 0; row < 2 * places; row++) embed(m, row, tokens, states);
    run(m, forward, NULL);
    return 0;
}

typedef struct {
    int slot, first, rows;
    const float *states;
} Arrival;

static void condition(Model *m, int worker) {
    const Arrival *a = m->argument;
    const Inputs *in = prepare(m, worker, a->states, m->shape.hidden, NULL, a->rows);
    int first, last, blocks = m->layers[0].cross_kv.blocks;
    while (take(m, m->shape.layers * blocks, &first, &last))
        for (int item = first; item < last; item++) {
            int layer = item / blocks, block = item % blocks;
            Sink to = {.kind = CROSS, .model = m, .layer = layer, .slot = a->slot, .first = a->first};
            m->kernels->multiply(&m->layers[layer].cross_kv, block, block + 1, in, a->rows,
                                 m->shape.format, &to);
        }
}

/* Keys and values of the cross-attention of a slot, from states [length][hidden].
 * 0, or -1 for what is out of range, -2 without memory. */
EXPORT int musicgen_admit(Model *m, int slot, const float *states, int length) {
    if (slot < 0 || slot >= m->shape.slots || length < 1 || length > 65536) return -1;
    if (!m->shape.cross_attention) return -1;
    Conditioning *c = &m->conditioning[slot];
    if (length > c->capacity) {
        int capacity = (length + KEYS - 1) / KEYS * KEYS;
        size_t bytes = (size_t)capacity * m->shape.hidden * m->element * 2 * m->shape.layers;
        char *data = calloc(1, bytes);
        if (!data) return -2;
        free(c->data);
        *c = (Conditioning){data, 0, capacity};
    }
    if (length > m->longest) {
        for (int i = 0; i < m->shape.threads; i++) {
            float *scores = grab(m, (length + KEYS) * sizeof *scores, 0);
            if (!scores) return -2;
            m->scores[i] = scores;
        }
        m->longest = length;
    }
    c->length = length;
    for (int first = 0; first < length; first += m->most_rows) {
        int rows = length - first < m->most_rows ? length - first : m->most_rows;
        Arrival a = {slot, first, rows, states + (size_t)first * m->shape.hidden};
        run(m, condition, &a);
    }
    return 0;
}

/* --------------------------------------------------------------------------------- a model is made */

static size_t group_bytes(int inputs) { return (size_t)inputs * BLOCK + BLOCK * sizeof(float); }

static int make_matrix(Model *m, Matrix *matrix, int outputs, int inputs) {
    int groups = inputs / GROUP, rest = inputs % GROUP;
    matrix->blocks = outputs / BLOCK;
    matrix->inputs = inputs;
    matrix->block_bytes = (size_t)inputs * BLOCK * sizeof(float);
    if (m->shape.format == INT8)
        matrix->block_bytes = groups * group_bytes(GROUP) + (rest ? group_bytes(rest) : 0);
    matrix->data = grab(m, matrix->blocks * matrix->block_bytes, 1);
    return matrix->data != NULL;
}

static int make_norm(Model *m, Norm *norm) {
    norm->weight = grab(m, m->shape.hidden * sizeof(float), 0);
    norm->bias = grab(m, m->shape.hidden * sizeof(float), 0);
    return norm->weight && norm->bias;
}

static int make_inputs(Model *m, Inputs *in, int rows) {
    in->stride = m->widest;
    in->groups = (m->widest + GROUP - 1) / GROUP;
    in->copy = grab(m, rows * in->stride * sizeof(float), 0);
    in->q = grab(m, rows * in->stride, 0);
    in->scales = grab(m, rows * in->groups * sizeof(float), 0);
    in->sums = grab(m, rows * in->groups * sizeof(int32_t), 0);
    in->x = in->copy;
    return in->copy && in->q && in->scales && in->sums;
}

static int make_layer(Model *m, Layer *l) {
    int hidden = m->shape.hidden, ffn = m->shape.ffn;
    int made = make_norm(m, &l->self_norm) && make_norm(m, &l->last_norm) &&
               make_matrix(m, &l->qkv, 3 * hidden, hidden) &&
               make_matrix(m, &l->self_out, hidden, hidden) &&
               make_matrix(m, &l->fc1, ffn, hidden) && make_matrix(m, &l->fc2, hidden, ffn);
    if (!made || !m->shape.cross_attention) return made;
    return make_norm(m, &l->cross_norm) && make_matrix(m, &l->cross_q, hidden, hidden) &&
           make_matrix(m, &l->cross_kv, 2 * hidden, hidden) &&
           make_matrix(m, &l->cross_out, hidden, hidden);
}

static int make_parts(Model *m) {
    const Shape *s = &m->shape;
    size_t rows = m->most_rows, hidden = s->hidden, plane = (size_t)m->capacity * hidden * m->element;
    m->layers = grab(m, s->layers * sizeof *m->layers, 0);
    m->conditioning = grab(m, s->slots * sizeof *m->conditioning, 0);
    m->own = grab(m, s->threads * sizeof *m->own, 0);
    m->scores = grab(m, s->threads * sizeof *m->scores, 0);
    m->threads = grab(m, s->threads * sizeof *m->threads, 0);
    m->embeddings = grab(m, s->codebooks * (size_t)(s->codebook_size + 1) * hidden * sizeof(float), 0);
    m->sinusoids = grab(m, s->positions * hidden * sizeof(float), 0);
    /* No huge pages: a short take would fill the memory of a long one. */
    m->cache = grab(m, plane * 2 * 2 * s->layers * s->slots, 0);
    m->hidden = grab(m, rows * hidden * sizeof(float), 0);
    m->fused = grab(m, rows * hidden * sizeof(float), 0);
    m->mixed = grab(m, rows * hidden * sizeof(float), 0);
    m->inner = grab(m, rows * s->ffn * sizeof(float), 0);
    if (!m->layers || !m->conditioning || !m->own || !m->scores || !m->threads || !m->embeddings ||
        !m->sinusoids || !m->cache || !m->hidden || !m->fused || !m->mixed || !m->inner)
        return 0;
    for (int i = 0; i < s->layers; i++)
        if (!make_layer(m, &m->layers[i])) return 0;
    for (int i = 0; i < s->threads; i++) {
        m->scores[i] = grab(m, (m->longest + KEYS) * sizeof(float), 0);
        if (!m->scores[i] || !make_inputs(m, &m->own[i], ALONE)) return 0;
    }
    return make_norm(m, &m->norm) && make_inputs(m, &m->shared, m->most_rows) &&
           make_matrix(m, &m->heads, s->codebooks * s->codebook_size, s->hidden);
}

/* Gives everything back; the threads end. */
EXPORT void musicgen_free(Model *m) {
    if (!m) return;
    if (m->shape.threads > 1) {
        m->job = NULL;
        barrier(m);
        for (int i = 1; i < m->shape.threads; i++) pthread_join(m->threads[i], NULL);
    }
    for (int i = 0; m->conditioning && i < m->shape.slots; i++) free(m->conditioning[i].data);
    for (Piece *piece = m->pieces, *next; piece; piece = next) {
        next = piece->next;
        if (piece->mapped) munmap(piece->data, piece->bytes);
        else free(piece->data);
        free(piece);
    }
    pthread_mutex_destroy(&m->gate);
    free(m);
}

/* As many threads as may be, up to what was asked for; the caller is one of them. */
static void start_threads(Model *m) {
    int wanted = m->shape.threads, i;
    pthread_mutex_lock(&m->gate);
    for (i = 1; i < wanted; i++) {
        Start *start = malloc(sizeof *start);
        if (!start) break;
        *start = (Start){m, i};
        if (pthread_create(&m->threads[i], NULL, work, start)) {
            free(start);
            break;
        }
    }
    m->shape.threads = i;
    pthread_mutex_unlock(&m->gate);
}

/* A model without weights, or NULL: no memory, or a shape that the kernels cannot hold. */
EXPORT Model *musicgen_new(const Shape *shape, int most_places) {
    int head_size = shape->heads > 0 ? shape->hidden / shape->heads : 0;
    if (shape->layers < 1 || shape->hidden < BLOCK || shape->hidden % BLOCK || head_size < 16 ||
        head_size % 16 || head_size * shape->heads != shape->hidden || shape->ffn % BLOCK ||
        shape->ffn < BLOCK || shape->codebooks < 1 || shape->codebook_size % BLOCK ||
        shape->slots < 1 || shape->positions < 1 || shape->threads < 1 || most_places < 1 ||
        !musicgen_level(shape->level) || !musicgen_runs(shape->level))
        return NULL;
    Model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->shape = *shape;
    m->kernels = LEVELS[shape->level];
    m->head_size = head_size;
    m->capacity = (shape->positions + KEYS - 1) / KEYS * KEYS;
    m->longest = m->capacity;
    m->most_rows = 2 * most_places;
    m->widest = shape->ffn > shape->hidden ? shape->ffn : shape->hidden;
    m->element = shape->format == INT8 ? sizeof(uint16_t) : sizeof(float);
    pthread_mutex_init(&m->gate, NULL);
    if (make_parts(m)) {
        start_threads(m);
        return m;
    }
    m->shape.threads = 1; /* none was started */
    musicgen_free(m);
    return NULL;
}

enum matrix_name { QKV, SELF_OUT, CROSS_Q, CROSS_KV, CROSS_OUT, FC1, FC2, HEADS };

static Matrix *find_matrix(Model *m, int name, int layer) {
    if (name == HEADS) return &m->heads;
    if (layer < 0 || layer >= m->shape.layers) return NULL;
    Layer *l = &m->layers[layer];
    Matrix *matrices[] = {&l->qkv, &l->self_out, &l->cross_q, &l->cross_kv, &l->cross_out, &l->fc1,
                          &l->fc2};
    return name >= QKV && name < HEADS ? matrices[name] : NULL;
}

typedef struct {
    Matrix *matrix;
    const float *data;
    int first;
    int blocks;
} Packing;

static void pack_float(float *to, const float *from, int inputs) {
    for (int k = 0; k < inputs; k++)
        for (int o = 0; o < BLOCK; o++) *to++ = from[(size_t)o * inputs + k];
}

static void pack_int8(char *to, const float *from, int inputs) {
    for (int start = 0; start < inputs; start += GROUP) {
        int width = inputs - start < GROUP ? inputs - start : GROUP;
        for (int o = 0; o < BLOCK; o++) {
            const float *x = from + (size_t)o * inputs + start;
            float peak = 0;
            for (int k = 0; k < width; k++) peak = fabsf(x[k]) > peak ? fabsf(x[k]) : peak;
            float inverse = peak > 1e-30f ? 127 / peak : 0, scale = peak / 127;
            for (int k = 0; k < width; k++)
                to[(k / 4 * BLOCK + o) * 4 + k % 4] = (char)(int8_t)lrintf(x[k] * inverse);
            memcpy(to + (size_t)width * BLOCK + o * sizeof scale, &scale, sizeof scale);
        }
        to += group_bytes(width);
    }
}

static void pack(Model *m, int worker) {
    const Packing *p = m->argument;
    int first, last, inputs = p->matrix->inputs;
    (void)worker;
    while (take(m, p->blocks, &first, &last))
        for (int block = first; block < last; block++) {
            char *to = p->matrix->data + (p->first / BLOCK + block) * p->matrix->block_bytes;
            const float *from = p->data + (size_t)block * BLOCK * inputs;
            if (m->shape.format == INT8) pack_int8(to, from, inputs);
            else pack_float((float *)to, from, inputs);
        }
}

/* Outputs `first` to `first + outputs` of a matrix, from [outputs][inputs]; -1 if they do not fit. */
EXPORT int musicgen_matrix(Model *m, int name, int layer, int first, int outputs, int inputs,
                           const float *data) {
    Matrix *matrix = find_matrix(m, name, layer);
    if (!matrix || !matrix->data || inputs != matrix->inputs || first % BLOCK || outputs % BLOCK ||
        first < 0 || outputs < 1 || (first + outputs) / BLOCK > matrix->blocks)
        return -1;
    Packing p = {matrix, data, first, outputs / BLOCK};
    run(m, pack, &p);
    return 0;
}

enum vector_name { SELF_NORM, CROSS_NORM, LAST_NORM, FINAL_NORM, EMBEDDINGS, SINUSOIDS };

/* A norm of a layer (its weight and its bias), the embeddings [codebooks][codebook_size + 1][hidden]
 * or the sinusoids [positions][hidden]. */
EXPORT int musicgen_vectors(Model *m, int name, int layer, const float *first, const float *second) {
    const Shape *s = &m->shape;
    size_t row = s->hidden * sizeof *first;
    if (name < SELF_NORM || name > SINUSOIDS || layer < 0 || layer >= s->layers) return -1;
    if (name == EMBEDDINGS) {
        memcpy(m->embeddings, first, s->codebooks * (size_t)(s->codebook_size + 1) * row);
    } else if (name == SINUSOIDS) {
        memcpy(m->sinusoids, first, s->positions * row);
    } else {
        Layer *l = &m->layers[layer];
        const Norm *norms[] = {&l->self_norm, &l->cross_norm, &l->last_norm, &m->norm};
        if (!norms[name]->weight) return -1;
        memcpy(norms[name]->weight, first, row);
        memcpy(norms[name]->bias, second, row);
    }
    return 0;
}

static void read_all(Model *m, int worker) {
    uint64_t seen = 0;
    for (int i = 0; i < m->shape.layers; i++) {
        const Layer *l = &m->layers[i];
        const Matrix *matrices[] = {&l->qkv, &l->fc1, &l->fc2, &l->self_out};
        for (int j = 0; j < 4; j++) {
            size_t words = matrices[j]->blocks * matrices[j]->block_bytes / 64;
            const uint64_t *data = (const uint64_t *)matrices[j]->data;
            for (size_t w = words * worker / m->shape.threads * 8,
                        end = words * (worker + 1) / m->shape.threads * 8;
                 w < end; w += 8) {
                fetch(data + w, 2048);
                seen ^= data[w] ^ data[w + 4];
            }
        }
    }
    atomic_fetch_xor((atomic_uint *)m->argument, (unsigned)seen);
}

/* Reads most weights once on all threads and does nothing with them: the bytes. What a step could
 * do at best is known from the time that this takes. */
EXPORT size_t musicgen_read(Model *m) {
    atomic_uint seen = 0;
    run(m, read_all, &seen);
    const Layer *l = m->layers;
    return m->shape.layers * (l->qkv.blocks * l->qkv.block_bytes + l->fc1.blocks * l->fc1.block_bytes +
                              l->fc2.blocks * l->fc2.block_bytes +
                              l->self_out.blocks * l->self_out.block_bytes);
}

#else /* ------------------------------------------------- the kernels, for one instruction set */

enum { NAME(PARTS) = BLOCK / LANES };
#define PARTS NAME(PARTS)

typedef float NAME(vf) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(vi) __attribute__((vector_size(4 * LANES)));
typedef float NAME(floats) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES)));
typedef int8_t NAME(bytes) __attribute__((vector_size(LANES), aligned(1), may_alias));
#define vf NAME(vf)
#define vi NAME(vi)

ALWAYS vf NAME(load)(const float *from) { return *(const NAME(floats) *)from; }
ALWAYS void NAME(store)(float *to, vf x) { *(NAME(floats) *)to = x; }
ALWAYS vf NAME(select)(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
ALWAYS vf NAME(larger)(vf a, vf b) { return NAME(select)((vi)(a > b), a, b); }
ALWAYS vf NAME(size_of)(vf x) { return (vf)((vi)x & 0x7fffffff); }

ALWAYS float NAME(sum)(vf x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

ALWAYS float NAME(largest)(vf x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* Rounded to the nearest, as the integer in the low bits of what is returned plus `magic`'s: adding
 * 1.5 * 2^23 leaves no bits for a fraction. */
ALWAYS vi NAME(nearest)(vf x) {
    vf magic = (vf){0} + 12582912.0f;
    return (vi)(x + magic) - (vi)magic;
}

/* Cephes' exp: within 2 ulp, for x <= 0; below -87 as at -87. */
ALWAYS vf NAME(exp)(vf x) {
    x = NAME(larger)(x, (vf){0} - 87.0f);
    vi n = NAME(nearest)(x * 1.44269504f);
    vf whole = __builtin_convertvector(n, vf);
    vf r = x - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    return p * (vf)((n + 127) << 23);
}

/* x * (1 + erf(x / sqrt 2)) / 2 with erf of Abramowitz and Stegun 7.1.26, within 1.5e-7. */
ALWAYS vf NAME(gelu)(vf x) {
    vf z = NAME(size_of)(x) * 0.70710678f;
    vf t = 1.0f / (z * 0.3275911f + 1.0f);
    vf p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf erf = 1.0f - p * t * NAME(exp)(-(z * z));
    erf = NAME(select)((vi)(x < (vf){0}), -erf, erf);
    return x * 0.5f * (erf + 1.0f);
}

static void NAME(normalise)(float *to, const float *x, const Norm *norm, int width) {
    vf total = {0}, squares = {0};
    for (int i = 0; i < width; i += LANES) total += NAME(load)(x + i);
    float mean = NAME(sum)(total) / (float)width;
    for (int i = 0; i < width; i += LANES) {
        vf apart = NAME(load)(x + i) - mean;
        squares += apart * apart;
    }
    float scale = 1 / sqrtf(NAME(sum)(squares) / (float)width + 1e-5f);
    for (int i = 0; i < width; i += LANES) {
        vf apart = (NAME(load)(x + i) - mean) * scale;
        NAME(store)(to + i, apart * NAME(load)(norm->weight + i) + NAME(load)(norm->bias + i));
    }
}

static void NAME(prepare)(const Inputs *to, int row, const float *x, const Norm *norm, int width,
                          int format) {
    float *copy = to->copy + row * to->stride;
    if (norm) NAME(normalise)(copy, x, norm, width);
    else if (format == FLOAT32) memcpy(copy, x, width * sizeof *x);
    if (format == FLOAT32) return;
    const float *from = norm ? copy : x;
    int8_t *q = to->q + row * to->stride;
    for (int start = 0; start < width; start += GROUP) {
        int end = width - start < GROUP ? width : start + GROUP;
        vf peaks = {0};
        vi sums = {0};
        for (int i = start; i < end; i += LANES)
            peaks = NAME(larger)(peaks, NAME(size_of)(NAME(load)(from + i)));
        float peak = NAME(largest)(peaks), inverse = peak > 1e-30f ? 127 / peak : 0;
        for (int i = start; i < end; i += LANES) {
            vi whole = NAME(nearest)(NAME(load)(from + i) * inverse);
            sums += whole;
            *(NAME(bytes) *)(q + i) = __builtin_convertvector(whole, NAME(bytes));
        }
        int32_t sum = 0;
        for (int i = 0; i < LANES; i++) sum += sums[i];
        to->scales[row * to->groups + start / GROUP] = peak / 127;
        to->sums[row * to->groups + start / GROUP] = sum;
    }
}

/* How an instruction set adds products of four int8 weights and four int8 inputs to each lane:
 * `weights` and `inputs` bring them into the form that `dot` wants, once for all rows. OFFSET is
 * what `weights` adds to each weight. |values| <= 127, so that nothing here can saturate. */
ALWAYS int32_t NAME(four)(const int8_t *from) {
    int32_t four;
    memcpy(&four, from, 4);
    return four;
}
#if DOT == VNNI
#define OFFSET 128
#define WEIGHTS __m512i
#define INPUTS __m512i
ALWAYS __m512i NAME(weights)(const char *w) {
    return _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8(-128));
}
ALWAYS __m512i NAME(inputs)(const int8_t *x) { return _mm512_set1_epi32(NAME(four)(x)); }
ALWAYS vi NAME(dot)(vi c, __m512i w, __m512i x) { return (vi)_mm512_dpbusd_epi32((__m512i)c, w, x); }
#elif DOT == AVX2
#define OFFSET 0
#define WEIGHTS __m256i
#define INPUTS NAME(inputs_t)
typedef struct {
    __m256i x, size;
} INPUTS;
ALWAYS __m256i NAME(weights)(const char *w) { return _mm256_loadu_si256((const __m256i *)w); }
ALWAYS INPUTS NAME(inputs)(const int8_t *x) {
    __m256i all = _mm256_set1_epi32(NAME(four)(x));
    return (INPUTS){all, _mm256_abs_epi8(all)};
}
ALWAYS vi NAME(dot)(vi c, __m256i w, INPUTS x) {
    __m256i pairs = _mm256_maddubs_epi16(x.size, _mm256_sign_epi8(w, x.x));
    return c + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif DOT == NEON || DOT == DOTPROD
#define OFFSET 0
#define WEIGHTS int8x16_t
#define INPUTS int8x16_t
ALWAYS int8x16_t NAME(weights)(const char *w) { return vld1q_s8((const int8_t *)w); }
ALWAYS int8x16_t NAME(inputs)(const int8_t *x) {
    return vreinterpretq_s8_s32(vdupq_n_s32(NAME(four)(x)));
}
ALWAYS vi NAME(dot)(vi c, int8x16_t w, int8x16_t x) {
#if DOT == DOTPROD
    return (vi)vdotq_s32((int32x4_t)c, w, x);
#else
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return (vi)vpadalq_s16((int32x4_t)c, vpaddq_s16(low, high));
#endif
}
#else
#define OFFSET 0
#define WEIGHTS const int8_t *
#define INPUTS const int8_t *
ALWAYS const int8_t *NAME(weights)(const char *w) { return (const int8_t *)w; }
ALWAYS const int8_t *NAME(inputs)(const int8_t *x) { return x; }
ALWAYS vi NAME(dot)(vi c, const int8_t *w, const int8_t *x) {
    for (int i = 0; i < LANES; i++)
        c[i] += w[4 * i] * x[0] + w[4 * i + 1] * x[1] + w[4 * i + 2] * x[2] + w[4 * i + 3] * x[3];
    return c;
}
#endif

/* `rows` rows from `row` on, one block of outputs: [rows][BLOCK]. Sums go group by group, which
 * also keeps the rounding of long ones small. `rows` is a constant where this is inlined. */
ALWAYS void NAME(tile_int8)(int rows, const char *w, int width, const Inputs *in, int row, float *out) {
    vf total[TILE][PARTS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PARTS; i++) total[r][i] = (vf){0};
    const int8_t *x = in->q + row * in->stride;
    for (int start = 0; start < width; start += GROUP) {
        int end = width - start < GROUP ? width : start + GROUP;
        vi c[TILE][PARTS];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < PARTS; i++) c[r][i] = (vi){0};
        for (int k = start; k < end; k += 4, w += 4 * BLOCK) {
            fetch(w, 2048);
            fetch(w, 2112);
            WEIGHTS some[PARTS];
            for (int i = 0; i < PARTS; i++) some[i] = NAME(weights)(w + 4 * LANES * i);
            for (int r = 0; r < rows; r++) {
                INPUTS four = NAME(inputs)(x + r * in->stride + k);
                for (int i = 0; i < PARTS; i++) c[r][i] = NAME(dot)(c[r][i], some[i], four);
            }
        }
        for (int r = 0; r < rows; r++) {
            size_t group = (row + r) * in->groups + start / GROUP;
            int32_t excess = OFFSET * in->sums[group];
            float scale = in->scales[group];
            for (int i = 0; i < PARTS; i++) {
                vf sum = __builtin_convertvector(c[r][i] - excess, vf);
                total[r][i] += sum * (NAME(load)((const float *)w + LANES * i) * scale);
            }
        }
        w += BLOCK * sizeof(float);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PARTS; i++) NAME(store)(out + r * BLOCK + i * LANES, total[r][i]);
}

ALWAYS void NAME(tile_float)(int rows, const float *w, int width, const Inputs *in, int row, float *out) {
    vf total[TILE][PARTS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PARTS; i++) total[r][i] = (vf){0};
    const float *x = in->x + row * in->stride;
    for (int start = 0; start < width; start += GROUP) {
        int end = width - start < GROUP ? width : start + GROUP;
        vf c[TILE][PARTS];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < PARTS; i++) c[r][i] = (vf){0};
        for (int k = start; k < end; k++, w += BLOCK) {
            fetch(w, 2048);
            fetch(w, 2112);
            for (int i = 0; i < PARTS; i++) {
                vf some = NAME(load)(w + LANES * i);
                for (int r = 0; r < rows; r++) c[r][i] += some * x[r * in->stride + k];
            }
        }
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < PARTS; i++) total[r][i] += c[r][i];
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < PARTS; i++) NAME(store)(out + r * BLOCK + i * LANES, total[r][i]);
}

static void NAME(sink)(const Sink *to, int block, int row, const float *out) {
    if (to->kind == SELF) return sink_self(to, block, row, out);
    if (to->kind == CROSS) return sink_cross(to, block, row, out);
    float *at = to->out + row * to->stride + (size_t)block * BLOCK;
    for (int i = 0; i < BLOCK; i += LANES) {
        vf x = NAME(load)(out + i);
        if (to->kind == ADD) x += NAME(load)(at + i);
        if (to->kind == GELU) x = NAME(gelu)(x);
        NAME(store)(at + i, x);
    }
}

/* The weights of a block come from memory for the first rows, and from the cache for the others. */
static void NAME(multiply)(const Matrix *m, int first, int last, const Inputs *in, int rows, int format,
                           const Sink *to) {
    float out[TILE * BLOCK];
    for (int block = first; block < last; block++) {
        const char *w = m->data + block * m->block_bytes;
        for (int row = 0, some; row < rows; row += some) {
            some = rows - row >= TILE ? TILE : rows - row >= 2 ? 2 : 1;
            if (format == INT8) {
                if (some == TILE) NAME(tile_int8)(TILE, w, m->inputs, in, row, out);
                else if (some == 2) NAME(tile_int8)(2, w, m->inputs, in, row, out);
                else NAME(tile_int8)(1, w, m->inputs, in, row, out);
            } else {
                if (some == TILE) NAME(tile_float)(TILE, (const float *)w, m->inputs, in, row, out);
                else if (some == 2) NAME(tile_float)(2, (const float *)w, m->inputs, in, row, out);
                else NAME(tile_float)(1, (const float *)w, m->inputs, in, row, out);
            }
            for (int r = 0; r < some; r++) NAME(sink)(to, block, row + r, out + r * BLOCK);
        }
    }
}

ALWAYS vf NAME(element)(const char *from, size_t index, int format) {
    if (format == FLOAT32) return NAME(load)((const float *)from + index);
    NAME(halves) half = *(const NAME(halves) *)((const uint16_t *)from + index);
    return (vf)(__builtin_convertvector(half, NAME(words)) << 16);
}

/* The dot products of a query with the keys of KEYS positions. */
ALWAYS void NAME(score)(const char *keys, int format, const float *query, int size, float *scores) {
    enum { VECTORS = KEYS / LANES, CHAINS = 4 };
    float scale = 1 / sqrtf((float)size);
    vf s[CHAINS][VECTORS];
    for (int c = 0; c < CHAINS; c++)
        for (int i = 0; i < VECTORS; i++) s[c][i] = (vf){0};
    for (int j = 0; j < size; j += CHAINS)
        for (int c = 0; c < CHAINS; c++)
            for (int i = 0; i < VECTORS; i++)
                s[c][i] += NAME(element)(keys, (size_t)(j + c) * KEYS + i * LANES, format) * query[j + c];
    for (int i = 0; i < VECTORS; i++)
        NAME(store)(scores + i * LANES, ((s[0][i] + s[1][i]) + (s[2][i] + s[3][i])) * scale);
}

/* `width` values of the output from `start` on. */
ALWAYS void NAME(mix)(int width, const char *values, int format, const float *scores, int length,
                      int size, int start, float factor, float *out) {
    vf total[64 / LANES];
    for (int i = 0; i < width / LANES; i++) total[i] = (vf){0};
    for (int t = 0; t < length; t++)
        for (int i = 0; i < width / LANES; i++)
            total[i] +=
                NAME(element)(values, (size_t)t * size + start + i * LANES, format) * scores[t];
    for (int i = 0; i < width / LANES; i++) NAME(store)(out + start + i * LANES, total[i] * factor);
}

ALWAYS void NAME(attend_in)(int format, Cache cache, const float *query, int length, int size,
                            float *scores, float *out) {
    int blocks = (length + KEYS - 1) / KEYS;
    size_t bytes = (size_t)size * KEYS * (format == INT8 ? sizeof(uint16_t) : sizeof(float));
    for (int b = 0; b < blocks; b++)
        NAME(score)(cache.keys + b * bytes, format, query, size, scores + b * KEYS);
    /* What stands behind the last position is of an earlier sequence. */
    for (int t = length; t < blocks * KEYS; t++) scores[t] = -INFINITY;
    vf most = (vf){0} - INFINITY, total = {0};
    for (int t = 0; t < blocks * KEYS; t += LANES) most = NAME(larger)(most, NAME(load)(scores + t));
    float peak = NAME(largest)(most);
    for (int t = 0; t < blocks * KEYS; t += LANES) {
        vf e = NAME(exp)(NAME(load)(scores + t) - peak);
        NAME(store)(scores + t, e);
        total += e;
    }
    float factor = 1 / NAME(sum)(total);
    int start = 0;
    for (; size - start >= 64; start += 64)
        NAME(mix)(64, cache.values, format, scores, length, size, start, factor, out);
    for (; start < size; start += 16)
        NAME(mix)(16, cache.values, format, scores, length, size, start, factor, out);
}

static void NAME(attend)(Cache cache, int format, const float *query, int length, int head_size,
                         float *scores, float *out) {
    if (format == INT8) NAME(attend_in)(INT8, cache, query, length, head_size, scores, out);
    else NAME(attend_in)(FLOAT32, cache, query, length, head_size, scores, out);
}

static const Kernels NAME(kernels) = {QUOTE(LEVEL), NAME(prepare), NAME(multiply), NAME(attend)};

#undef vf
#undef vi
#undef PARTS
#undef OFFSET
#undef WEIGHTS
#undef INPUTS
#undef LEVEL
#undef LANES
#undef TILE
#undef DOT

#endif

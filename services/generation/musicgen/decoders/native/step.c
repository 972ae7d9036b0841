/* A step of a MusicGen decoder on the CPU: all layers for a few rows, with their KV cache.
 *
 * A step reads every weight once and does little arithmetic with it: the memory's bandwidth determines
 * its time. Weights are int8 in groups of 128 (or float, in the exact mode), in the order in which they
 * are read, and threads synchronise only where a row must be complete.
 *
 * Every slot has a pair of rows: with the prompt and without. A prefill has several pairs of one slot,
 * at consecutive positions. The arithmetic of a row never depends on the number of rows: the result of
 * a slot is bitwise independent of other slots.
 *
 * matrices.h has the layout of weights, cache.h that of keys and values, threads.h the threads, and
 * kernels.h the arithmetic, which levels.h compiles once for each instruction set. All of it is one
 * translation unit, and nothing needs -march.
 */

#include "levels.h"
#include "prompt.h"

/* --------------------------------------------------------------------------------------- the step */

/* The query of a head; its key and value follow at a distance of `hidden` each. */
static const float *fused_at(const Model *m, int row, int head) {
    return m->fused + (size_t)row * 3 * m->shape.hidden + (size_t)head * m->head_size;
}

static Cache row_cache(const Model *m, int layer, int row, int head) {
    return self_cache(m, m->slots[row % m->pairs], row >= m->pairs, layer, head);
}

static void store_row(const Model *m, int layer, int row, int head) {
    const float *query = fused_at(m, row, head), *key = query + m->shape.hidden;
    store_key_value(m, row_cache(m, layer, row, head), m->positions[row % m->pairs], key,
                    key + m->shape.hidden);
}

static void self_attention(Model *m, int thread, int layer) {
    int heads = m->shape.heads, total = 2 * m->pairs * heads, first, last;
    if (m->is_prefill) { /* rows attend to each other */
        while (take_share(m, total, &first, &last))
            for (int item = first; item < last; item++) store_row(m, layer, item / heads, item % heads);
        barrier(m);
    }
    while (take_share(m, total, &first, &last))
        for (int item = first; item < last; item++) {
            int row = item / heads, head = item % heads;
            if (!m->is_prefill) store_row(m, layer, row, head);
            m->kernels->attend(row_cache(m, layer, row, head), m->shape.format, fused_at(m, row, head),
                               m->positions[row % m->pairs] + 1, m->head_size, m->scores[thread],
                               m->mixed + (size_t)row * m->shape.hidden + (size_t)head * m->head_size);
        }
    barrier(m);
}

static void forward(Model *m, int thread) {
    int hidden = m->shape.hidden, ffn = m->shape.ffn, rows = 2 * m->pairs;
    Sink add = {.kind = ADD, .out = m->hidden, .stride = hidden};
    Sink gelu = {.kind = GELU, .out = m->inner, .stride = ffn};
    Sink qkv = {.kind = STORE, .out = m->fused, .stride = 3 * (size_t)hidden};
    for (int i = 0; i < m->shape.layers; i++) {
        const Layer *l = &m->layers[i];
        multiply(m, &l->qkv, prepare(m, thread, m->hidden, hidden, &l->self_norm, rows), rows, &qkv);
        self_attention(m, thread, i);
        multiply(m, &l->self_out, prepare(m, thread, m->mixed, hidden, NULL, rows), rows, &add);
        if (m->shape.cross_attention) cross_attention(m, thread, i);
        multiply(m, &l->fc1, prepare(m, thread, m->hidden, hidden, &l->last_norm, rows), rows, &gelu);
        multiply(m, &l->fc2, prepare(m, thread, m->inner, ffn, NULL, rows), rows, &add);
    }
    if (!m->logits) return;
    Sink logits = {.kind = STORE, .out = m->logits, .stride = (size_t)m->heads.blocks * BLOCK};
    multiply(m, &m->heads, prepare(m, thread, m->hidden, hidden, &m->norm, rows), rows, &logits);
}

/* Sets the hidden values of a row from the pair's tokens or the row's state, and from its position. */
static void embed(Model *m, int row, const int64_t *tokens, const float *states) {
    const Shape *s = &m->shape;
    int pair = row % m->pairs;
    size_t hidden = s->hidden;
    float *to = m->hidden + row * hidden;
    if (states) memcpy(to, states + row * hidden, hidden * sizeof *to);
    else memset(to, 0, hidden * sizeof *to);
    for (int k = 0; tokens && k < s->codebooks; k++) {
        size_t index = (size_t)k * (s->codebook_size + 1) + tokens[pair * s->codebooks + k];
        for (size_t i = 0; i < hidden; i++) to[i] += m->embeddings[index * hidden + i];
    }
    for (size_t i = 0; i < hidden; i++) to[i] += m->sinusoids[m->positions[pair] * hidden + i];
}

/* Computes both rows of each pair. A pair has a slot and a position; the slot's cache is filled up to
 * there, or is filled by this call. Slots are all distinct, or all the same. The input is either tokens
 * [pairs][codebooks] or the states [2][pairs][hidden] of a prefix; `logits` is
 * [2][pairs][codebooks][codebook_size] or NULL. Returns 0, or -1 if an argument is out of range. */
EXPORT int musicgen_forward(Model *m, int pairs, const int32_t *slots, const int32_t *positions,
                            const int64_t *tokens, const float *states, float *logits) {
    const Shape *s = &m->shape;
    if (pairs < 1 || 2 * pairs > m->max_rows || !tokens == !states) return -1;
    for (int i = 0; i < pairs; i++) {
        if (slots[i] < 0 || slots[i] >= s->slots) return -1;
        if (positions[i] < 0 || positions[i] >= s->positions) return -1;
        if (s->cross_attention && !m->conditioning[slots[i]].length) return -1;
    }
    for (int i = 0; tokens && i < pairs * s->codebooks; i++)
        if (tokens[i] < 0 || tokens[i] > s->codebook_size) return -1;
    m->pairs = pairs;
    m->slots = slots;
    m->positions = positions;
    m->logits = logits;
    m->is_prefill = pairs > 1 && slots[0] == slots[1];
    if (s->cross_attention) find_batches(m);
    for (int row = 0; row < 2 * pairs; row++) embed(m, row, tokens, states);
    run_job(m, forward, NULL);
    return 0;
}

/* ------------------------------------------------------------------------------------- the model */

static int make_norm(Model *m, Norm *norm) {
    norm->weight = allocate(m, m->shape.hidden * sizeof(float), 0);
    norm->bias = allocate(m, m->shape.hidden * sizeof(float), 0);
    return norm->weight && norm->bias;
}

static int make_inputs(Model *m, Inputs *in, int rows) {
    in->stride = m->max_width;
    in->groups = (m->max_width + GROUP - 1) / GROUP;
    in->copy = allocate(m, rows * in->stride * sizeof(float), 0);
    in->q = allocate(m, rows * in->stride, 0);
    in->scales = allocate(m, rows * in->groups * sizeof(float), 0);
    in->sums = allocate(m, rows * in->groups * sizeof(int32_t), 0);
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
    size_t rows = m->max_rows, hidden = s->hidden;
    size_t heads = (size_t)2 * s->layers * s->heads * s->slots;
    m->layers = allocate(m, s->layers * sizeof *m->layers, 0);
    m->conditioning = allocate(m, s->slots * sizeof *m->conditioning, 0);
    m->thread_inputs = allocate(m, s->threads * sizeof *m->thread_inputs, 0);
    m->scores = allocate(m, s->threads * sizeof *m->scores, 0);
    m->threads = allocate(m, s->threads * sizeof *m->threads, 0);
    m->embeddings =
        allocate(m, s->codebooks * (size_t)(s->codebook_size + 1) * hidden * sizeof(float), 0);
    m->sinusoids = allocate(m, s->positions * hidden * sizeof(float), 0);
    /* No huge pages: with them, a short sequence would use the memory of a long one. */
    m->cache = allocate(m, 2 * plane_bytes(m, m->capacity) * heads, 0);
    m->folded = allocate(m, folded_bytes(m, m->max_folded) * s->layers * s->slots, 1);
    m->batches = allocate(m, rows * sizeof *m->batches, 0);
    m->hidden = allocate(m, rows * hidden * sizeof(float), 0);
    m->fused = allocate(m, rows * 3 * hidden * sizeof(float), 0);
    m->mixed = allocate(m, rows * hidden * sizeof(float), 0);
    m->inner = allocate(m, rows * s->ffn * sizeof(float), 0);
    if (!m->layers || !m->conditioning || !m->thread_inputs || !m->scores || !m->threads ||
        !m->embeddings || !m->sinusoids || !m->cache || !m->folded || !m->batches || !m->hidden ||
        !m->fused || !m->mixed || !m->inner)
        return 0;
    for (int i = 0; i < s->layers; i++)
        if (!make_layer(m, &m->layers[i])) return 0;
    for (int i = 0; i < s->threads; i++) {
        m->scores[i] = allocate(m, (m->max_length + KEY_BLOCK) * sizeof(float), 0);
        if (!m->scores[i] || !make_inputs(m, &m->thread_inputs[i], UNSHARED_ROWS)) return 0;
    }
    return make_norm(m, &m->norm) && make_inputs(m, &m->shared_inputs, m->max_rows) &&
           make_matrix(m, &m->heads, s->codebooks * s->codebook_size, s->hidden);
}

/* Ends the threads and frees all memory. */
EXPORT void musicgen_free(Model *m) {
    if (!m) return;
    if (m->shape.threads > 1) {
        m->job = NULL;
        barrier(m);
        for (int i = 1; i < m->shape.threads; i++) pthread_join(m->threads[i], NULL);
    }
    for (int i = 0; m->conditioning && i < m->shape.slots; i++) free(m->conditioning[i].data);
    for (Allocation *allocation = m->allocations, *next; allocation; allocation = next) {
        next = allocation->next;
        if (allocation->mapped) munmap(allocation->data, allocation->bytes);
        else free(allocation->data);
        free(allocation);
    }
    pthread_mutex_destroy(&m->start_lock);
    free(m);
}

/* Starts shape.threads threads, the caller's included, or as many as possible, and sets the number. */
static void start_threads(Model *m) {
    int wanted = m->shape.threads, i;
    pthread_mutex_lock(&m->start_lock);
    for (i = 1; i < wanted; i++) {
        Start *start = malloc(sizeof *start);
        if (!start) break;
        *start = (Start){m, i};
        if (pthread_create(&m->threads[i], NULL, thread_main, start)) {
            free(start);
            break;
        }
    }
    m->shape.threads = i;
    pthread_mutex_unlock(&m->start_lock);
}

/* Returns a model without weights, or NULL without memory or for a shape that no kernel supports. */
EXPORT Model *musicgen_new(const Shape *shape, int max_pairs) {
    int head_size = shape->heads > 0 ? shape->hidden / shape->heads : 0;
    if (shape->layers < 1 || shape->hidden < BLOCK || shape->hidden % BLOCK || head_size < 16 ||
        head_size % 16 || head_size * shape->heads != shape->hidden || shape->ffn % BLOCK ||
        shape->ffn < BLOCK || shape->codebooks < 1 || shape->codebook_size % BLOCK ||
        shape->slots < 1 || shape->positions < 1 || shape->threads < 1 || max_pairs < 1 ||
        !musicgen_level(shape->level) || !musicgen_runs(shape->level))
        return NULL;
    Model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->shape = *shape;
    m->kernels = LEVELS[shape->level];
    m->head_size = head_size;
    m->capacity = (shape->positions + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
    m->max_length = m->capacity;
    m->max_rows = 2 * max_pairs;
    m->max_folded = find_max_folded(m);
    m->max_width = shape->ffn > shape->hidden ? shape->ffn : shape->hidden;
    m->element_bytes = shape->format == INT8 ? sizeof(int8_t) : sizeof(float);
    pthread_mutex_init(&m->start_lock, NULL);
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

/* Sets the outputs from `first` on of a matrix, from [outputs][inputs]; returns -1 if they do not fit. */
EXPORT int musicgen_matrix(Model *m, int name, int layer, int first, int outputs, int inputs,
                           const float *data) {
    Matrix *matrix = find_matrix(m, name, layer);
    if (!matrix || !matrix->data || inputs != matrix->inputs || first % BLOCK || outputs % BLOCK ||
        first < 0 || outputs < 1 || (first + outputs) / BLOCK > matrix->blocks)
        return -1;
    Packing p = {matrix, data, first, outputs / BLOCK};
    run_job(m, pack, &p);
    return 0;
}

enum vector_name { SELF_NORM, CROSS_NORM, LAST_NORM, FINAL_NORM, EMBEDDINGS, SINUSOIDS };

/* Sets the weight and bias of a norm, the embeddings [codebooks][codebook_size + 1][hidden] or the
 * sinusoids [positions][hidden]; returns -1 if an argument is out of range. */
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

static void read_all(Model *m, int thread) {
    uint64_t checksum = 0;
    for (int i = 0; i < m->shape.layers; i++) {
        const Layer *l = &m->layers[i];
        const Matrix *matrices[] = {&l->qkv, &l->fc1, &l->fc2, &l->self_out};
        for (int j = 0; j < 4; j++) {
            size_t words = matrices[j]->blocks * matrices[j]->block_bytes / 64;
            const uint64_t *data = (const uint64_t *)matrices[j]->data;
            for (size_t w = words * thread / m->shape.threads * 8,
                        end = words * (thread + 1) / m->shape.threads * 8;
                 w < end; w += 8) {
                fetch(data + w, 2048);
                checksum ^= data[w] ^ data[w + 4];
            }
        }
    }
    atomic_fetch_xor((atomic_uint *)m->argument, (unsigned)checksum);
}

/* Reads most weights once on all threads and returns their bytes. Its duration is a lower bound for the
 * time of a step. */
EXPORT size_t musicgen_read(Model *m) {
    atomic_uint checksum = 0;
    run_job(m, read_all, &checksum);
    const Layer *l = m->layers;
    return m->shape.layers * (l->qkv.blocks * l->qkv.block_bytes + l->fc1.blocks * l->fc1.block_bytes +
                              l->fc2.blocks * l->fc2.block_bytes +
                              l->self_out.blocks * l->self_out.block_bytes);
}

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
 * Weights lie as matrices.h says, keys and values as cache.h does; threads.h has the threads, and
 * kernels.h the arithmetic, which levels.h compiles once for each instruction set. All of it is one
 * translation unit, and nothing needs -march.
 */

#include "levels.h"
#include "prompt.h"

/* --------------------------------------------------------------------------------- the whole step */

/* The fused queries, keys and values of a head of a row. */
static const float *fused(const Model *m, int row, int head) {
    return m->fused + (size_t)row * 3 * m->shape.hidden + (size_t)head * m->head_size;
}

static Cache cache_of(const Model *m, int layer, int row, int head) {
    return self_cache(m, m->slots[row % m->places], row >= m->places, layer, head);
}

static void take_in(const Model *m, int layer, int row, int head) {
    const float *query = fused(m, row, head), *key = query + m->shape.hidden;
    put(m, cache_of(m, layer, row, head), m->at[row % m->places], key, key + m->shape.hidden);
}

static void self_attention(Model *m, int worker, int layer) {
    int heads = m->shape.heads, total = 2 * m->places * heads, first, last;
    if (m->is_ahead) { /* rows attend to each other */
        while (take(m, total, &first, &last))
            for (int item = first; item < last; item++) take_in(m, layer, item / heads, item % heads);
        barrier(m);
    }
    while (take(m, total, &first, &last))
        for (int item = first; item < last; item++) {
            int row = item / heads, head = item % heads;
            if (!m->is_ahead) take_in(m, layer, row, head);
            m->kernels->attend(cache_of(m, layer, row, head), m->shape.format, fused(m, row, head),
                               m->at[row % m->places] + 1, m->head_size, m->scores[worker],
                               m->mixed + (size_t)row * m->shape.hidden + (size_t)head * m->head_size);
        }
    barrier(m);
}

static void forward(Model *m, int worker) {
    int hidden = m->shape.hidden, ffn = m->shape.ffn, rows = 2 * m->places;
    Sink add = {.kind = ADD, .out = m->hidden, .stride = hidden};
    Sink gelu = {.kind = GELU, .out = m->inner, .stride = ffn};
    Sink qkv = {.kind = STORE, .out = m->fused, .stride = 3 * (size_t)hidden};
    for (int i = 0; i < m->shape.layers; i++) {
        const Layer *l = &m->layers[i];
        multiply(m, &l->qkv, prepare(m, worker, m->hidden, hidden, &l->self_norm, rows), rows, &qkv);
        self_attention(m, worker, i);
        multiply(m, &l->self_out, prepare(m, worker, m->mixed, hidden, NULL, rows), rows, &add);
        if (m->shape.cross_attention) cross_attention(m, worker, i);
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
 * come with it; the slots are all different, or all the same. Either tokens [places][codebooks], or the
 * states [2][places][hidden] of a prefix. `logits` is [2][places][codebooks][codebook_size], or NULL.
 * 0, or -1 for what is out of range. */
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
    m->is_ahead = places > 1 && slots[0] == slots[1];
    if (s->cross_attention) find_runs(m);
    for (int row = 0; row < 2 * places; row++) embed(m, row, tokens, states);
    run(m, forward, NULL);
    return 0;
}

/* --------------------------------------------------------------------------------- a model is made */

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
    size_t rows = m->most_rows, hidden = s->hidden;
    size_t heads = (size_t)2 * s->layers * s->heads * s->slots;
    m->layers = grab(m, s->layers * sizeof *m->layers, 0);
    m->conditioning = grab(m, s->slots * sizeof *m->conditioning, 0);
    m->own = grab(m, s->threads * sizeof *m->own, 0);
    m->scores = grab(m, s->threads * sizeof *m->scores, 0);
    m->threads = grab(m, s->threads * sizeof *m->threads, 0);
    m->embeddings = grab(m, s->codebooks * (size_t)(s->codebook_size + 1) * hidden * sizeof(float), 0);
    m->sinusoids = grab(m, s->positions * hidden * sizeof(float), 0);
    /* No huge pages: a short take would fill the memory of a long one. */
    m->cache = grab(m, 2 * plane_bytes(m, m->capacity) * heads, 0);
    m->folded = grab(m, folded_bytes(m, m->longest_folded) * s->layers * s->slots, 1);
    m->runs = grab(m, rows * sizeof *m->runs, 0);
    m->hidden = grab(m, rows * hidden * sizeof(float), 0);
    m->fused = grab(m, rows * 3 * hidden * sizeof(float), 0);
    m->mixed = grab(m, rows * hidden * sizeof(float), 0);
    m->inner = grab(m, rows * s->ffn * sizeof(float), 0);
    if (!m->layers || !m->conditioning || !m->own || !m->scores || !m->threads || !m->embeddings ||
        !m->sinusoids || !m->cache || !m->folded || !m->runs || !m->hidden || !m->fused || !m->mixed || !m->inner)
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
    m->longest_folded = find_longest_folded(m);
    m->widest = shape->ffn > shape->hidden ? shape->ffn : shape->hidden;
    m->element = shape->format == INT8 ? sizeof(int8_t) : sizeof(float);
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

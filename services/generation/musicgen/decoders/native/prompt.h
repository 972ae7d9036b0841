/* Attention to the prompt, which only the conditional row of a place has.
 *
 * A prompt's keys are the same at every step, and so is what their product with the queries' weights
 * comes to: a head's scores are (K Wq) x. Likewise its output is (Wo V) p, with p the softmax of the
 * scores. For a prompt of T states each of the two is a matrix of heads * T times hidden values, where
 * Wq and Wo have hidden * hidden: short prompts are folded into the weights when they arrive, and a
 * step reads less. Whether one is depends on its length alone, so that a request sounds the same
 * whatever else runs. Only int8 does it: the exact mode keeps to the order of the original. */
#pragma once

#include "cache.h"
#include "matrices.h"
#include "rows.h"

/* ------------------------------------------------------------------------------- what is folded */

/* As many positions as fill whole blocks of outputs with all heads. */
static int padded_length(const Model *m, int length) {
    int unit = 1;
    while (m->shape.heads * unit % BLOCK) unit++;
    return (length + unit - 1) / unit * unit;
}

/* The greatest padded length: from half of a matrix's weights on it would save little. */
static int find_longest_folded(const Model *m) {
    int most = m->head_size / 2 < FOLDED ? m->head_size / 2 : FOLDED;
    if (m->most_rows < most) most = m->most_rows;
    if (m->shape.format != INT8 || !m->shape.cross_attention) return 0;
    while (most > 0 && padded_length(m, most) != most) most--;
    return most;
}

static Matrix score_matrix(const Model *m, int padded) {
    return matrix_of(m->shape.heads * padded, m->shape.hidden, INT8);
}

static Matrix output_matrix(const Model *m, int padded) {
    return matrix_of(m->shape.hidden, m->shape.heads * padded, INT8);
}

/* Bytes of a layer. */
static size_t folded_bytes(const Model *m, int padded) {
    Matrix scores = score_matrix(m, padded), output = output_matrix(m, padded);
    return scores.blocks * scores.block_bytes + output.blocks * output.block_bytes;
}

/* The two matrices of a folded prompt. */
static void folded(const Model *m, int slot, int layer, Matrix *scores, Matrix *output) {
    int padded = m->conditioning[slot].padded;
    size_t of_slot = m->shape.layers * folded_bytes(m, m->longest_folded);
    *scores = score_matrix(m, padded);
    *output = output_matrix(m, padded);
    scores->data = m->folded + slot * of_slot + layer * folded_bytes(m, padded);
    output->data = scores->data + scores->blocks * scores->block_bytes;
}

/* ------------------------------------------------------------------------------------ the step */

/* Heads whose queries fill whole blocks. */
static int unit_heads(const Model *m) { return m->head_size % BLOCK ? 2 : 1; }

/* Lays out the places of a step: what is multiplied together, and how many pieces its queries have. */
static void find_runs(Model *m) {
    m->run_count = m->queries = 0;
    for (int place = 0; place < m->places; place++) {
        int padded = m->conditioning[m->slots[place]].padded;
        Run *last = m->run_count ? &m->runs[m->run_count - 1] : NULL;
        if (last && last->padded == padded && (!padded || m->slots[place] == m->slots[place - 1])) {
            last->rows++;
            continue;
        }
        m->runs[m->run_count++] = (Run){place, 1, padded, m->queries};
        m->queries += m->shape.heads * padded / BLOCK;
        if (!padded) m->queries += m->shape.heads / unit_heads(m);
    }
}

static Inputs from_row(const Inputs *in, int row) {
    Inputs rest = *in;
    rest.x += row * in->stride;
    rest.copy += row * in->stride;
    rest.q += row * in->stride;
    rest.scales += row * in->groups;
    rest.sums += row * in->groups;
    return rest;
}

/* The queries of some heads, and their attention: prompts are short, so that a barrier between the two
 * would be most of the wait. */
static void attend_to_prompts(Model *m, int worker, int layer, const Inputs *in, const Run *run,
                              int unit) {
    int size = m->head_size, heads = unit_heads(m), blocks = heads * size / BLOCK;
    int hidden = m->shape.hidden, format = m->shape.format;
    const Matrix *matrix = &m->layers[layer].cross_q;
    float *queries = m->fused + (size_t)run->first * hidden;
    float *mixed = m->mixed + (size_t)run->first * hidden;
    Sink to = {.kind = STORE, .out = queries, .stride = hidden};
    m->kernels->multiply(matrix, unit * blocks, (unit + 1) * blocks, in, run->rows, format, &to);
    for (int row = 0; row < run->rows; row++)
        for (int head = unit * heads; head < (unit + 1) * heads; head++) {
            size_t at = (size_t)row * hidden + (size_t)head * size;
            int slot = m->slots[run->first + row];
            m->kernels->attend(cross_cache(m, slot, layer, head), format, queries + at,
                               m->conditioning[slot].length, size, m->scores[worker], mixed + at);
        }
}

/* A piece of what the prompts are asked: for scores where they are folded, else for all of attention. */
static void ask(Model *m, int worker, int layer, const Inputs *in, int piece) {
    const Run *run = m->runs + m->run_count - 1;
    while (piece < run->queries) run--;
    Inputs rows = from_row(in, run->first);
    piece -= run->queries;
    if (!run->padded) {
        attend_to_prompts(m, worker, layer, &rows, run, piece);
        return;
    }
    Matrix scores, output;
    folded(m, m->slots[run->first], layer, &scores, &output);
    float *out = m->fused + (size_t)run->first * m->shape.hidden;
    Sink to = {.kind = STORE, .out = out, .stride = m->shape.hidden};
    m->kernels->multiply(&scores, piece, piece + 1, &rows, run->rows, INT8, &to);
}

/* What `ask` found, as `answer` reads it. */
static void prepare_answer(const Model *m, const Inputs *to, int row, const Source *from) {
    const Conditioning *c = &m->conditioning[m->slots[row]];
    if (!c->padded) {
        prepare_row(m, to, row, from);
        return;
    }
    float *weights = to->copy + row * to->stride;
    const float *scores = m->fused + (size_t)row * m->shape.hidden;
    m->kernels->softmax(weights, scores, m->shape.heads, c->length, c->padded);
    m->kernels->prepare(to, row, weights, NULL, m->shape.heads * c->padded, INT8);
}

/* A block of what a run's prompts answer, added to its rows. */
static void answer(Model *m, int layer, const Inputs *in, const Run *run, int block) {
    Inputs rows = from_row(in, run->first);
    Matrix scores, output = m->layers[layer].cross_out;
    if (run->padded) folded(m, m->slots[run->first], layer, &scores, &output);
    float *out = m->hidden + (size_t)run->first * m->shape.hidden;
    Sink to = {.kind = ADD, .out = out, .stride = m->shape.hidden};
    m->kernels->multiply(&output, block, block + 1, &rows, run->rows, m->shape.format, &to);
}

static void cross_attention(Model *m, int worker, int layer) {
    int hidden = m->shape.hidden, blocks = hidden / BLOCK, first, last;
    const Norm *norm = &m->layers[layer].cross_norm;
    const Inputs *in = prepare(m, worker, m->hidden, hidden, norm, m->places);
    while (take(m, m->queries, &first, &last))
        for (int piece = first; piece < last; piece++) ask(m, worker, layer, in, piece);
    barrier(m);
    in = prepare_by(prepare_answer, m, worker, m->places, &(Source){m->mixed, hidden, NULL});
    while (take(m, m->run_count * blocks, &first, &last))
        for (int item = first; item < last; item++)
            answer(m, layer, in, &m->runs[item / blocks], item % blocks);
    barrier(m);
}

/* -------------------------------------------------------------------------------- a prompt arrives */

typedef struct {
    int slot, first, rows;
    const float *states;
    float *room; /* of each thread */
} Arrival;

/* What a thread works with. Kernels write some columns and rows past the end of a product. */
typedef struct {
    float *states;  /* [rows][2][hidden]: keys and values; to fold, zeros behind the prompt */
    float *keys;    /* [hidden][FOLDED]: the keys, turned */
    float *weights; /* [hidden][BLOCK] */
    float *product; /* [inputs][outputs] of the scores, then [inputs][BLOCK] of each block of the output */
} Room;

/* States for folding, and for any other prompt. */
static size_t most_states(const Model *m) {
    return m->most_rows > FOLDED ? m->most_rows : FOLDED;
}

static size_t room_floats(const Model *m) {
    size_t hidden = m->shape.hidden, outputs = (size_t)m->shape.heads * m->longest_folded;
    return hidden * (2 * most_states(m) + FOLDED + BLOCK + outputs) + 4 * FOLDED;
}

static Room room_of(const Model *m, float *start) {
    size_t hidden = m->shape.hidden;
    float *keys = start + 2 * most_states(m) * hidden, *weights = keys + FOLDED * hidden;
    return (Room){start, keys, weights, weights + BLOCK * hidden};
}

/* For each head, its keys times the weights of its queries. */
static void fold_scores(const Model *m, const Layer *l, const Room *room, int length, const Matrix *to) {
    int hidden = m->shape.hidden, size = m->head_size, outputs = to->blocks * BLOCK;
    int depth = size % BLOCK ? 16 : BLOCK;
    memset(room->product, 0, ((size_t)hidden * outputs + FOLDED) * sizeof(float));
    for (int query = 0; query < hidden; query += depth) {
        const char *packed = l->cross_q.data + query / BLOCK * l->cross_q.block_bytes;
        if (query % BLOCK == 0) m->kernels->unpack(room->weights, packed, hidden);
        m->kernels->fold(room->product + query / size * (outputs / m->shape.heads), outputs, hidden,
                         length, depth, room->weights + query % BLOCK, BLOCK, 1,
                         room->keys + (size_t)query * FOLDED, FOLDED);
    }
    for (int block = 0; block < to->blocks; block++)
        m->kernels->pack(to->data + block * to->block_bytes, room->product + block * BLOCK, outputs,
                         hidden);
}

/* The output weights times each head's values. */
static void fold_output(const Model *m, const Layer *l, const Room *room, int length, const Matrix *to) {
    int hidden = m->shape.hidden, size = m->head_size, padded = to->inputs / m->shape.heads;
    for (int block = 0; block < to->blocks; block++) {
        m->kernels->unpack(room->weights, l->cross_out.data + block * l->cross_out.block_bytes, hidden);
        memset(room->product, 0, (size_t)(to->inputs + 4) * BLOCK * sizeof(float));
        for (int head = 0; head < m->shape.heads; head++)
            m->kernels->fold(room->product + (size_t)head * padded * BLOCK, BLOCK, length, BLOCK, size,
                             room->states + hidden + head * size, 2 * hidden, 1,
                             room->weights + (size_t)head * size * BLOCK, BLOCK);
        m->kernels->pack(to->data + block * to->block_bytes, room->product, BLOCK, to->inputs);
    }
}

static void fold(const Model *m, const Arrival *a, int layer, const Room *room) {
    int hidden = m->shape.hidden;
    float scale = 1 / sqrtf((float)m->head_size);
    Matrix scores, output;
    folded(m, a->slot, layer, &scores, &output);
    for (int i = 0; i < hidden; i++)
        for (int t = 0; t < a->rows; t++)
            room->keys[(size_t)i * FOLDED + t] = room->states[(size_t)t * 2 * hidden + i] * scale;
    fold_scores(m, &m->layers[layer], room, a->rows, &scores);
    fold_output(m, &m->layers[layer], room, a->rows, &output);
}

static void keep(const Model *m, const Arrival *a, int layer, const Room *room) {
    for (int row = 0; row < a->rows; row++)
        for (int head = 0; head < m->shape.heads; head++) {
            const float *key = room->states + (size_t)row * 2 * m->shape.hidden + head * m->head_size;
            put(m, cross_cache(m, a->slot, layer, head), a->first + row, key, key + m->shape.hidden);
        }
}

static void arrive(Model *m, int worker) {
    const Arrival *a = m->argument;
    const Inputs *in = prepare(m, worker, a->states, m->shape.hidden, NULL, a->rows);
    Room room = room_of(m, a->room + worker * room_floats(m));
    Sink to = {.kind = STORE, .out = room.states, .stride = 2 * (size_t)m->shape.hidden};
    int first, last;
    while (take(m, m->shape.layers, &first, &last))
        for (int layer = first; layer < last; layer++) {
            const Matrix *matrix = &m->layers[layer].cross_kv;
            m->kernels->multiply(matrix, 0, matrix->blocks, in, a->rows, m->shape.format, &to);
            (m->conditioning[a->slot].padded ? fold : keep)(m, a, layer, &room);
        }
}

/* Room for keys and values of a prompt that is not folded, and for scores of as many positions. */
static int make_room(Model *m, Conditioning *c, int length) {
    if (length > c->capacity) {
        int capacity = (length + KEYS - 1) / KEYS * KEYS;
        char *data = calloc((size_t)2 * m->shape.layers * m->shape.heads, plane_bytes(m, capacity));
        if (!data) return 0;
        free(c->data);
        *c = (Conditioning){.data = data, .capacity = capacity};
    }
    if (length > m->longest) {
        for (int i = 0; i < m->shape.threads; i++) {
            float *scores = grab(m, (length + KEYS) * sizeof *scores, 0);
            if (!scores) return 0;
            m->scores[i] = scores;
        }
        m->longest = length;
    }
    return 1;
}

/* Attention of a slot to a prompt, from its states [length][hidden].
 * 0, or -1 for what is out of range, -2 without memory. */
EXPORT int musicgen_admit(Model *m, int slot, const float *states, int length) {
    if (slot < 0 || slot >= m->shape.slots || length < 1 || length > 65536) return -1;
    if (!m->shape.cross_attention) return -1;
    Conditioning *c = &m->conditioning[slot];
    int padded = padded_length(m, length);
    if (padded > m->longest_folded) padded = 0;
    if (!padded && !make_room(m, c, length)) return -2;
    float *room = calloc(m->shape.threads * room_floats(m), sizeof *room);
    if (!room) return -2;
    c->padded = padded;
    c->length = length;
    for (int first = 0; first < length; first += m->most_rows) {
        int rows = length - first < m->most_rows ? length - first : m->most_rows;
        Arrival a = {slot, first, rows, states + (size_t)first * m->shape.hidden, room};
        run(m, arrive, &a);
    }
    free(room);
    return 0;
}

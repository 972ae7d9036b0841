/* Attention to the prompt, which only the conditional row of a pair has.
 *
 * The keys K of a prompt do not change between steps, and neither does their product with the query
 * weights: the scores of a head are (K Wq) x. In the same way its output is (Wo V) p, where p is the
 * softmax of the scores. For a prompt of T states, each of these two matrices has heads * T * hidden
 * values, while Wq and Wo have hidden * hidden. Short prompts are therefore folded into the weights when
 * a sequence starts, and a step reads less. Only the length decides about folding: the result does not
 * depend on other requests. Only int8 folds; the exact mode keeps the original order of operations. */
#pragma once

#include "cache.h"
#include "matrices.h"
#include "rows.h"

/* -------------------------------------------------------------------------------- folded prompts */

/* Rounds up to a length with which all heads together fill whole blocks of outputs. */
static int padded_length(const Model *m, int length) {
    int unit = 1;
    while (m->shape.heads * unit % BLOCK) unit++;
    return (length + unit - 1) / unit * unit;
}

/* The greatest padded length that is folded: beyond half of a matrix's weights it would save little. */
static int find_max_folded(const Model *m) {
    int most = m->head_size / 2 < FOLDED_STATES ? m->head_size / 2 : FOLDED_STATES;
    if (m->max_rows < most) most = m->max_rows;
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

/* Bytes of a folded prompt per layer. */
static size_t folded_bytes(const Model *m, int padded) {
    Matrix scores = score_matrix(m, padded), output = output_matrix(m, padded);
    return scores.blocks * scores.block_bytes + output.blocks * output.block_bytes;
}

/* The two matrices of a folded prompt. */
static void folded_matrices(const Model *m, int slot, int layer, Matrix *scores, Matrix *output) {
    int padded = m->conditioning[slot].padded;
    size_t of_slot = m->shape.layers * folded_bytes(m, m->max_folded);
    *scores = score_matrix(m, padded);
    *output = output_matrix(m, padded);
    scores->data = m->folded + slot * of_slot + layer * folded_bytes(m, padded);
    output->data = scores->data + scores->blocks * scores->block_bytes;
}

/* ------------------------------------------------------------------------------------ the step */

/* The number of heads whose queries fill whole blocks. */
static int unit_heads(const Model *m) { return m->head_size % BLOCK ? 2 : 1; }

/* Splits the pairs of a step into batches, and counts the work items of their queries. */
static void find_batches(Model *m) {
    m->batch_count = m->query_items = 0;
    for (int pair = 0; pair < m->pairs; pair++) {
        int padded = m->conditioning[m->slots[pair]].padded;
        Batch *last = m->batch_count ? &m->batches[m->batch_count - 1] : NULL;
        if (last && last->padded == padded && (!padded || m->slots[pair] == m->slots[pair - 1])) {
            last->rows++;
            continue;
        }
        m->batches[m->batch_count++] = (Batch){pair, 1, padded, m->query_items};
        m->query_items += m->shape.heads * padded / BLOCK;
        if (!padded) m->query_items += m->shape.heads / unit_heads(m);
    }
}

static Inputs skip_rows(const Inputs *in, int row) {
    Inputs rest = *in;
    rest.x += row * in->stride;
    rest.copy += row * in->stride;
    rest.q += row * in->stride;
    rest.scales += row * in->groups;
    rest.sums += row * in->groups;
    return rest;
}

/* Computes queries and attention of some heads. Prompts are short: a barrier between the two would take
 * longer than the work. */
static void attend_to_prompts(Model *m, int thread, int layer, const Inputs *in, const Batch *batch,
                              int unit) {
    int size = m->head_size, heads = unit_heads(m), blocks = heads * size / BLOCK;
    int hidden = m->shape.hidden, format = m->shape.format;
    const Matrix *matrix = &m->layers[layer].cross_q;
    float *queries = m->fused + (size_t)batch->first * hidden;
    float *mixed = m->mixed + (size_t)batch->first * hidden;
    Sink to = {.kind = STORE, .out = queries, .stride = hidden};
    m->kernels->multiply(matrix, unit * blocks, (unit + 1) * blocks, in, batch->rows, format, &to);
    for (int row = 0; row < batch->rows; row++)
        for (int head = unit * heads; head < (unit + 1) * heads; head++) {
            size_t at = (size_t)row * hidden + (size_t)head * size;
            int slot = m->slots[batch->first + row];
            m->kernels->attend(cross_cache(m, slot, layer, head), format, queries + at,
                               m->conditioning[slot].length, size, m->scores[thread], mixed + at);
        }
}

/* Computes one query item: the scores of a folded prompt, or the attention to one that is not folded. */
static void cross_query(Model *m, int thread, int layer, const Inputs *in, int item) {
    const Batch *batch = m->batches + m->batch_count - 1;
    while (item < batch->first_item) batch--;
    Inputs rows = skip_rows(in, batch->first);
    item -= batch->first_item;
    if (!batch->padded) {
        attend_to_prompts(m, thread, layer, &rows, batch, item);
        return;
    }
    Matrix scores, output;
    folded_matrices(m, m->slots[batch->first], layer, &scores, &output);
    float *out = m->fused + (size_t)batch->first * m->shape.hidden;
    Sink to = {.kind = STORE, .out = out, .stride = m->shape.hidden};
    m->kernels->multiply(&scores, item, item + 1, &rows, batch->rows, INT8, &to);
}

/* Prepares the results of `cross_query` as inputs of `cross_output`. */
static void prepare_cross_output(const Model *m, const Inputs *to, int row, const Source *from) {
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

/* Adds one block of the attention's output to the rows of a batch. */
static void cross_output(Model *m, int layer, const Inputs *in, const Batch *batch, int block) {
    Inputs rows = skip_rows(in, batch->first);
    Matrix scores, output = m->layers[layer].cross_out;
    if (batch->padded) folded_matrices(m, m->slots[batch->first], layer, &scores, &output);
    float *out = m->hidden + (size_t)batch->first * m->shape.hidden;
    Sink to = {.kind = ADD, .out = out, .stride = m->shape.hidden};
    m->kernels->multiply(&output, block, block + 1, &rows, batch->rows, m->shape.format, &to);
}

static void cross_attention(Model *m, int thread, int layer) {
    int hidden = m->shape.hidden, blocks = hidden / BLOCK, first, last;
    const Norm *norm = &m->layers[layer].cross_norm;
    const Inputs *in = prepare(m, thread, m->hidden, hidden, norm, m->pairs);
    while (take_share(m, m->query_items, &first, &last))
        for (int item = first; item < last; item++) cross_query(m, thread, layer, in, item);
    barrier(m);
    in = prepare_with(prepare_cross_output, m, thread, m->pairs, &(Source){m->mixed, hidden, NULL});
    while (take_share(m, m->batch_count * blocks, &first, &last))
        for (int item = first; item < last; item++)
            cross_output(m, layer, in, &m->batches[item / blocks], item % blocks);
    barrier(m);
}

/* ----------------------------------------------------------------------------- start of a sequence */

typedef struct {
    int slot, first, rows;
    const float *states;
    float *scratch; /* of all threads */
} Admission;

/* Work space of a thread. Kernels write some columns and rows past the end of a product. */
typedef struct {
    float *states;  /* [rows][2][hidden]: keys and values; for folding, zeros after the prompt */
    float *keys;    /* [hidden][FOLDED_STATES]: the keys, transposed */
    float *weights; /* [hidden][BLOCK] */
    float *product; /* [inputs][outputs] of the scores; later [inputs][BLOCK] of a block of the output */
} Scratch;

/* The most states that are processed at once. */
static size_t max_states(const Model *m) {
    return m->max_rows > FOLDED_STATES ? m->max_rows : FOLDED_STATES;
}

static size_t scratch_floats(const Model *m) {
    size_t hidden = m->shape.hidden, outputs = (size_t)m->shape.heads * m->max_folded;
    return hidden * (2 * max_states(m) + FOLDED_STATES + BLOCK + outputs) + 4 * FOLDED_STATES;
}

static Scratch scratch_at(const Model *m, float *start) {
    size_t hidden = m->shape.hidden;
    float *keys = start + 2 * max_states(m) * hidden, *weights = keys + FOLDED_STATES * hidden;
    return (Scratch){start, keys, weights, weights + BLOCK * hidden};
}

/* Multiplies each head's keys with its query weights. */
static void fold_scores(const Model *m, const Layer *l, const Scratch *scratch, int length,
                        const Matrix *to) {
    int hidden = m->shape.hidden, size = m->head_size, outputs = to->blocks * BLOCK;
    int depth = size % BLOCK ? 16 : BLOCK;
    memset(scratch->product, 0, ((size_t)hidden * outputs + FOLDED_STATES) * sizeof(float));
    for (int query = 0; query < hidden; query += depth) {
        const char *packed = l->cross_q.data + query / BLOCK * l->cross_q.block_bytes;
        if (query % BLOCK == 0) m->kernels->unpack(scratch->weights, packed, hidden);
        m->kernels->fold(scratch->product + query / size * (outputs / m->shape.heads), outputs, hidden,
                         length, depth, scratch->weights + query % BLOCK, BLOCK, 1,
                         scratch->keys + (size_t)query * FOLDED_STATES, FOLDED_STATES);
    }
    for (int block = 0; block < to->blocks; block++)
        m->kernels->pack(to->data + block * to->block_bytes, scratch->product + block * BLOCK, outputs,
                         hidden);
}

/* Multiplies the output weights with each head's values. */
static void fold_output(const Model *m, const Layer *l, const Scratch *scratch, int length,
                        const Matrix *to) {
    int hidden = m->shape.hidden, size = m->head_size, padded = to->inputs / m->shape.heads;
    for (int block = 0; block < to->blocks; block++) {
        const char *packed = l->cross_out.data + block * l->cross_out.block_bytes;
        m->kernels->unpack(scratch->weights, packed, hidden);
        memset(scratch->product, 0, (size_t)(to->inputs + 4) * BLOCK * sizeof(float));
        for (int head = 0; head < m->shape.heads; head++)
            m->kernels->fold(scratch->product + (size_t)head * padded * BLOCK, BLOCK, length, BLOCK, size,
                             scratch->states + hidden + head * size, 2 * hidden, 1,
                             scratch->weights + (size_t)head * size * BLOCK, BLOCK);
        m->kernels->pack(to->data + block * to->block_bytes, scratch->product, BLOCK, to->inputs);
    }
}

static void fold_prompt(const Model *m, const Admission *a, int layer, const Scratch *scratch) {
    int hidden = m->shape.hidden;
    float scale = 1 / sqrtf((float)m->head_size);
    Matrix scores, output;
    folded_matrices(m, a->slot, layer, &scores, &output);
    for (int i = 0; i < hidden; i++)
        for (int t = 0; t < a->rows; t++)
            scratch->keys[(size_t)i * FOLDED_STATES + t] =
                scratch->states[(size_t)t * 2 * hidden + i] * scale;
    fold_scores(m, &m->layers[layer], scratch, a->rows, &scores);
    fold_output(m, &m->layers[layer], scratch, a->rows, &output);
}

static void store_prompt(const Model *m, const Admission *a, int layer, const Scratch *scratch) {
    for (int row = 0; row < a->rows; row++)
        for (int head = 0; head < m->shape.heads; head++) {
            const float *key = scratch->states + (size_t)row * 2 * m->shape.hidden + head * m->head_size;
            store_key_value(m, cross_cache(m, a->slot, layer, head), a->first + row, key,
                            key + m->shape.hidden);
        }
}

static void admit_layers(Model *m, int thread) {
    const Admission *a = m->argument;
    const Inputs *in = prepare(m, thread, a->states, m->shape.hidden, NULL, a->rows);
    Scratch scratch = scratch_at(m, a->scratch + thread * scratch_floats(m));
    Sink to = {.kind = STORE, .out = scratch.states, .stride = 2 * (size_t)m->shape.hidden};
    int first, last;
    while (take_share(m, m->shape.layers, &first, &last))
        for (int layer = first; layer < last; layer++) {
            const Matrix *matrix = &m->layers[layer].cross_kv;
            m->kernels->multiply(matrix, 0, matrix->blocks, in, a->rows, m->shape.format, &to);
            (m->conditioning[a->slot].padded ? fold_prompt : store_prompt)(m, a, layer, &scratch);
        }
}

/* Allocates the keys, values and scores of a prompt that is not folded; returns 0 without memory. */
static int reserve_prompt(Model *m, Conditioning *c, int length) {
    if (length > c->capacity) {
        int capacity = (length + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
        char *data = calloc((size_t)2 * m->shape.layers * m->shape.heads, plane_bytes(m, capacity));
        if (!data) return 0;
        free(c->data);
        *c = (Conditioning){.data = data, .capacity = capacity};
    }
    if (length > m->max_length) {
        for (int i = 0; i < m->shape.threads; i++) {
            float *scores = allocate(m, (length + KEY_BLOCK) * sizeof *scores, 0);
            if (!scores) return 0;
            m->scores[i] = scores;
        }
        m->max_length = length;
    }
    return 1;
}

/* Sets the prompt of a slot from its states [length][hidden].
 * Returns 0, -1 if an argument is out of range, or -2 without memory. */
EXPORT int musicgen_admit(Model *m, int slot, const float *states, int length) {
    if (slot < 0 || slot >= m->shape.slots || length < 1 || length > 65536) return -1;
    if (!m->shape.cross_attention) return -1;
    Conditioning *c = &m->conditioning[slot];
    int padded = padded_length(m, length);
    if (padded > m->max_folded) padded = 0;
    if (!padded && !reserve_prompt(m, c, length)) return -2;
    float *scratch = calloc(m->shape.threads * scratch_floats(m), sizeof *scratch);
    if (!scratch) return -2;
    c->padded = padded;
    c->length = length;
    for (int first = 0; first < length; first += m->max_rows) {
        int rows = length - first < m->max_rows ? length - first : m->max_rows;
        Admission a = {slot, first, rows, states + (size_t)first * m->shape.hidden, scratch};
        run_job(m, admit_layers, &a);
    }
    free(scratch);
    return 0;
}

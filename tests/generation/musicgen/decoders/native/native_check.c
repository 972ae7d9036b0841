/* Tests step.c with random weights, and draw.c, without Python: under sanitizers, or in an emulator.
 * Compares every level with plain C, a step alone with one in a batch, and a prefill with single steps.
 * Exits with the number of failed comparisons. */
#include STEP
#undef EXPORT
#define draw draw_one
#include DRAW
#undef draw
#include <stdio.h>

enum { SLOTS = 3, POSITIONS = 23, LENGTH = 21, PROMPT = 44 };

static uint32_t state;
static int prompt; /* length of the prompt of slot 1, which is compared */

static float drawn(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1;
}

static float *draw(size_t count, float scale) {
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = drawn() * scale;
    return values;
}

static void fill(Model *m, int name, int layer, int outputs, int inputs) {
    float *data = draw((size_t)outputs * inputs, 2 / sqrtf((float)inputs));
    musicgen_matrix(m, name, layer, 0, outputs, inputs, data);
    free(data);
}

static void fill_vectors(Model *m, int name, int layer, size_t count) {
    float *weight = draw(count, 1), *bias = draw(count, 1);
    musicgen_vectors(m, name, layer, weight, bias);
    free(weight);
    free(bias);
}

static Model *make(Shape shape, int level, int format, int threads) {
    shape.level = level;
    shape.format = format;
    shape.threads = threads;
    shape.slots = SLOTS;
    shape.positions = POSITIONS;
    Model *m = musicgen_new(&shape, 20);
    if (!m) exit(99);
    int hidden = shape.hidden;
    state = 1;
    for (int i = 0; i < shape.layers; i++) {
        fill(m, QKV, i, 3 * hidden, hidden);
        fill(m, SELF_OUT, i, hidden, hidden);
        fill(m, FC1, i, shape.ffn, hidden);
        fill(m, FC2, i, hidden, shape.ffn);
        fill_vectors(m, SELF_NORM, i, hidden);
        fill_vectors(m, LAST_NORM, i, hidden);
        if (!shape.cross_attention) continue;
        fill(m, CROSS_Q, i, hidden, hidden);
        fill(m, CROSS_KV, i, 2 * hidden, hidden);
        fill(m, CROSS_OUT, i, hidden, hidden);
        fill_vectors(m, CROSS_NORM, i, hidden);
    }
    fill_vectors(m, FINAL_NORM, 0, hidden);
    fill(m, HEADS, 0, shape.codebooks * shape.codebook_size, hidden);
    fill_vectors(m, EMBEDDINGS, 0, (size_t)shape.codebooks * (shape.codebook_size + 1) * hidden);
    fill_vectors(m, SINUSOIDS, 0, (size_t)POSITIONS * hidden);
    return m;
}

static size_t logits_of(const Model *m) {
    return (size_t)2 * m->shape.codebooks * m->shape.codebook_size;
}

static void draw_tokens(const Model *m, int64_t *tokens) {
    for (int i = 0; i < LENGTH * m->shape.codebooks; i++)
        tokens[i] = (int64_t)((drawn() + 1) / 2 * (float)m->shape.codebook_size);
}

static void begin(Model *m, int slot) {
    float *states = draw((size_t)PROMPT * m->shape.hidden, 1);
    int length = slot == 1 ? prompt : PROMPT - slot;
    if (m->shape.cross_attention && musicgen_admit(m, slot, states, length)) exit(98);
    free(states);
}

/* Logits [2][codebooks][size] of the last of LENGTH steps of slot 1; with `ahead`, the first ones are a
 * prefill. */
static float *last_logits(Model *m, int ahead) {
    float *logits = malloc(logits_of(m) * sizeof *logits);
    int64_t *tokens = malloc(LENGTH * m->shape.codebooks * sizeof *tokens);
    int32_t slots[LENGTH], positions[LENGTH];
    state = 2;
    begin(m, 1);
    draw_tokens(m, tokens);
    for (int t = 0; t < LENGTH; t++) slots[t] = 1, positions[t] = t;
    for (int t = 0, some; t < LENGTH - 1; t += some) {
        some = ahead && LENGTH - 1 - t >= 18 ? 18 : 1;
        if (musicgen_forward(m, some, slots, positions + t, tokens + t * m->shape.codebooks, NULL,
                             NULL))
            exit(97);
    }
    int t = LENGTH - 1;
    musicgen_forward(m, 1, slots, positions + t, tokens + t * m->shape.codebooks, NULL, logits);
    free(tokens);
    return logits;
}

/* The last step again, in a batch with other slots at other positions. */
static float *with_neighbours(Model *m) {
    size_t row = logits_of(m) / 2;
    float *all = malloc(SLOTS * 2 * row * sizeof *all), *own = malloc(2 * row * sizeof *own);
    int64_t *tokens = malloc(LENGTH * m->shape.codebooks * sizeof *tokens), *three;
    int32_t slots[] = {2, 0, 1}, positions[] = {0, 3, LENGTH - 1};
    state = 2;
    begin(m, 1);
    draw_tokens(m, tokens);
    begin(m, 2);
    begin(m, 0);
    three = malloc(SLOTS * m->shape.codebooks * sizeof *three);
    memset(three, 0, SLOTS * m->shape.codebooks * sizeof *three);
    memcpy(three + 2 * m->shape.codebooks, tokens + (LENGTH - 1) * m->shape.codebooks,
           m->shape.codebooks * sizeof *three);
    if (musicgen_forward(m, SLOTS, slots, positions, three, NULL, all)) exit(96);
    memcpy(own, all + 2 * row, row * sizeof *own);
    memcpy(own + row, all + 5 * row, row * sizeof *own);
    free(all);
    free(tokens);
    free(three);
    return own;
}

static int compare(const char *what, const Model *m, float *got, const float *wanted, float limit) {
    float error = 0, most = 0;
    for (size_t i = 0; i < logits_of(m); i++) {
        float one = fabsf(got[i] - wanted[i]);
        error = !(one <= error) ? one : error;
        most = fabsf(wanted[i]) > most ? fabsf(wanted[i]) : most;
    }
    int bad = !(error <= limit * most) || most == 0;
    printf("%s %s %s of %d: %.2g\n", bad ? "BAD" : "ok", m->kernels->name, what, m->shape.hidden,
           error / most);
    free(got);
    return bad;
}

/* Multiplies one matrix with the same inputs on every level. */
static int compare_products(Model *plain) {
    enum { ROWS = 7 };
    const Matrix *matrix = &plain->layers[0].fc1;
    int format = plain->shape.format, hidden = plain->shape.hidden, ffn = plain->shape.ffn, bad = 0;
    float *wanted = calloc(ROWS * ffn, sizeof *wanted), *got = calloc(ROWS * ffn, sizeof *got);
    float *x = draw((size_t)ROWS * hidden, 1);
    for (int i = 0; i < ROWS * hidden; i++) x[i] += 1; /* so that sums are far from 0 */
    for (int r = 0; r < ROWS; r++)
        kernels_plain.prepare(&plain->shared_inputs, r, x + r * hidden, NULL, hidden, format);
    for (int level = 0; musicgen_level(level); level++) {
        if (!musicgen_runs(level)) continue;
        Sink to = {.kind = STORE, .out = level ? got : wanted, .stride = ffn};
        LEVELS[level]->multiply(matrix, 0, matrix->blocks, &plain->shared_inputs, ROWS, format, &to);
        float error = 0, most = 0;
        for (int i = 0; level && i < ROWS * ffn; i++) {
            error = fmaxf(error, fabsf(got[i] - wanted[i]));
            most = fmaxf(most, fabsf(wanted[i]));
        }
        int wrong = !(error <= 1e-5f * most);
        printf("%s %s product of %d: %.2g\n", wrong ? "BAD" : "ok", musicgen_level(level), hidden,
               level ? error / most : 0);
        bad += wrong;
    }
    free(wanted);
    free(got);
    free(x);
    return bad;
}

/* The greatest token must be drawn if it is the only candidate, and a valid one from NaN or infinity. */
static int check_draws(void) {
    enum { SIZE = 37 };
    int bad = 0;
    for (int i = 0; i < 6 * SIZE; i++) {
        float *logits = draw(2 * 3 * SIZE, 1);
        Draw how = {.seed = i, .step = i, .temperature = 1, .guidance = 1, .top_k = i / 6};
        if (i % 6 == 1) how.top_p = 1e-9;
        if (i % 6 == 2) how.greedy = 1;
        for (int j = 0; i % 6 >= 4 && j < 2 * 3 * SIZE; j++) logits[j] = i % 6 == 4 ? NAN : INFINITY;
        int64_t tokens[3] = {-1, -1, -1};
        Draw same[] = {how, how, how};
        bad += musicgen_draw(3, 1, SIZE, logits, same, tokens) != 0;
        for (int request = 0; request < 3; request++) {
            const float *row = logits + request * SIZE;
            int wanted = 0;
            for (int j = 1; j < SIZE; j++) wanted = row[j] > row[wanted] ? j : wanted;
            bad += tokens[request] < 0 || tokens[request] >= SIZE;
            if (i % 6 == 1 || i % 6 == 2 || how.top_k == 1) bad += i % 6 < 4 && tokens[request] != wanted;
        }
        free(logits);
    }
    printf("%s draws\n", bad ? "BAD" : "ok");
    return bad;
}

int main(void) {
    const Shape shapes[] = {
        {.layers = 2, .hidden = 64, .heads = 4, .ffn = 256, .codebooks = 4, .codebook_size = 64,
         .cross_attention = 1},
        {.layers = 1, .hidden = 160, .heads = 2, .ffn = 288, .codebooks = 2, .codebook_size = 96},
        {.layers = 1, .hidden = 96, .heads = 2, .ffn = 96, .codebooks = 1, .codebook_size = 32,
         .cross_attention = 1},
    };
    const int prompts[] = {PROMPT - 1, 7}; /* the short one is folded into int8 weights */
    int bad = check_draws();
    for (int i = 0; i < 3 * 2; i++)
        for (int format = FLOAT32; format <= INT8; format++) {
            prompt = prompts[i % 2];
            Model *plain = make(shapes[i / 2], 0, format, 1);
            float *wanted = last_logits(plain, 0);
            bad += compare_products(plain);
            for (int level = 0; musicgen_level(level); level++) {
                if (!musicgen_runs(level)) continue;
                Model *m = make(shapes[i / 2], level, format, 2);
                float *stepped = last_logits(m, 0);
                bad += compare(format ? "int8 prefill" : "fp32 prefill", m, last_logits(m, 1), stepped, 0);
                bad += compare(format ? "int8 neighbours" : "fp32 neighbours", m, with_neighbours(m),
                               stepped, 0);
                bad += compare(format ? "int8" : "fp32", m, stepped, wanted, format ? 0.03f : 1e-5f);
                musicgen_free(m);
            }
            free(wanted);
            musicgen_free(plain);
        }
    return bad;
}

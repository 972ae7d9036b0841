/* The arithmetic for one instruction set: levels.h includes this once for each. */

enum { NAME(PARTS) = BLOCK / LANES };
#define PARTS NAME(PARTS)

typedef float NAME(vf) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(vi) __attribute__((vector_size(4 * LANES)));
typedef float NAME(floats) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t NAME(words) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(integers) __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef int8_t NAME(bytes) __attribute__((vector_size(LANES), aligned(1), may_alias));
#define vf NAME(vf)
#define vi NAME(vi)

ALWAYS vf NAME(load)(const float *from) { return *(const NAME(floats) *)from; }
ALWAYS vf NAME(load_bfloat16)(const char *from, int index) {
    NAME(halves) half = *(const NAME(halves) *)(from + (size_t)index * sizeof(uint16_t));
    return (vf)(__builtin_convertvector(half, NAME(words)) << 16);
}
ALWAYS void NAME(store)(float *to, vf x) { *(NAME(floats) *)to = x; }
ALWAYS vf NAME(select)(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
ALWAYS vf NAME(maximum)(vf a, vf b) { return NAME(select)((vi)(a > b), a, b); }
ALWAYS vf NAME(magnitude)(vf x) { return (vf)((vi)x & 0x7fffffff); }

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

/* Rounds to the nearest integer: after adding 1.5 * 2^23 a float has no bits for a fraction, and its low
 * bits are the integer. */
ALWAYS vi NAME(nearest)(vf x) {
    vf magic = (vf){0} + 12582912.0f;
    return (vi)(x + magic) - (vi)magic;
}

/* Cephes' exp for x <= 0, within 2 ulp; x is clamped to -87. */
ALWAYS vf NAME(exp)(vf x) {
    x = NAME(maximum)(x, (vf){0} - 87.0f);
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
    vf z = NAME(magnitude)(x) * 0.70710678f;
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
        vf deviation = NAME(load)(x + i) - mean;
        squares += deviation * deviation;
    }
    float scale = 1 / sqrtf(NAME(sum)(squares) / (float)width + 1e-5f);
    for (int i = 0; i < width; i += LANES) {
        vf deviation = (NAME(load)(x + i) - mean) * scale;
        NAME(store)(to + i, deviation * NAME(load)(norm->weight + i) + NAME(load)(norm->bias + i));
    }
}

/* Quantises `width` floats to -127..127; returns the scale, and sets the sum of the integers. */
static float NAME(quantise)(int8_t *to, const float *from, int width, int32_t *sum) {
    vf peaks = {0};
    vi sums = {0};
    for (int i = 0; i < width; i += LANES)
        peaks = NAME(maximum)(peaks, NAME(magnitude)(NAME(load)(from + i)));
    float peak = NAME(largest)(peaks), inverse = peak > 1e-30f ? 127 / peak : 0;
    for (int i = 0; i < width; i += LANES) {
        vi whole = NAME(nearest)(NAME(load)(from + i) * inverse);
        sums += whole;
        *(NAME(bytes) *)(to + i) = __builtin_convertvector(whole, NAME(bytes));
    }
    *sum = 0;
    for (int i = 0; i < LANES; i++) *sum += sums[i];
    return peak / 127;
}

static void NAME(prepare)(const Inputs *to, int row, const float *x, const Norm *norm, int width,
                          int format) {
    float *copy = to->copy + row * to->stride;
    if (norm) NAME(normalise)(copy, x, norm, width);
    else if (format == FLOAT32) memcpy(copy, x, width * sizeof *x);
    if (format == FLOAT32) return;
    const float *from = norm ? copy : x;
    for (int start = 0; start < width; start += GROUP) {
        int some = width - start < GROUP ? width - start : GROUP;
        size_t group = row * to->groups + start / GROUP;
        to->scales[group] = NAME(quantise)(to->q + row * to->stride + start, from + start, some,
                                           &to->sums[group]);
    }
}

/* Each instruction set adds the products of four int8 weights and four int8 inputs to each lane.
 * `weights` and `inputs` load them in the form that `dot` needs; weights are loaded once for all rows.
 * OFFSET is what `weights` adds to each weight. With |values| <= 127 nothing can saturate. */
ALWAYS int32_t NAME(load4)(const int8_t *from) {
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
ALWAYS __m512i NAME(inputs)(const int8_t *x) { return _mm512_set1_epi32(NAME(load4)(x)); }
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
    __m256i all = _mm256_set1_epi32(NAME(load4)(x));
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
    return vreinterpretq_s8_s32(vdupq_n_s32(NAME(load4)(x)));
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

/* Computes one block of outputs, [rows][BLOCK], for `rows` rows from `row` on. Groups are summed
 * separately, which also limits the rounding error of long sums. `rows` is constant after inlining. */
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
                total[r][i] += sum * (NAME(load_bfloat16)(w, LANES * i) * scale);
            }
        }
        w += BLOCK * sizeof(uint16_t);
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

static void NAME(write)(const Sink *to, int block, int row, const float *out) {
    float *at = to->out + row * to->stride + (size_t)block * BLOCK;
    for (int i = 0; i < BLOCK; i += LANES) {
        vf x = NAME(load)(out + i);
        if (to->kind == ADD) x += NAME(load)(at + i);
        if (to->kind == GELU) x = NAME(gelu)(x);
        NAME(store)(at + i, x);
    }
}

/* The first rows read the weights of a block from memory, the others from the processor's cache. */
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
            for (int r = 0; r < some; r++) NAME(write)(to, block, row + r, out + r * BLOCK);
        }
    }
}

#include "kernels_attention.h"
#include "kernels_packing.h"

static const Kernels NAME(kernels) = {
    QUOTE(LEVEL),  NAME(quantise), NAME(prepare), NAME(multiply), NAME(attend),
    NAME(softmax), NAME(pack),     NAME(unpack),  NAME(fold),
};

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

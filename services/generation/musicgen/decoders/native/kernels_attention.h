/* Attention for one instruction set: kernels.h includes this. */

/* Loads LANES elements of keys or values as floats. */
ALWAYS vf NAME(elements)(const char *from, size_t index, int format) {
    if (format == FLOAT32) return NAME(load)((const float *)from + index);
#if DOT == VNNI
    __m128i bytes = _mm_loadu_si128((const __m128i *)(from + index));
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#elif DOT == AVX2
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(from + index));
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#elif DOT == NEON || DOT == DOTPROD
    int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(NAME(load4)((const int8_t *)from + index)));
    return (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
#else
    return __builtin_convertvector(*(const NAME(bytes) *)(from + index), vf);
#endif
}

/* The dot products of a query with the keys of KEY_BLOCK positions. */
ALWAYS void NAME(score)(const char *keys, int format, const float *query, int size, float *scores) {
    enum { VECTORS = KEY_BLOCK / LANES, CHAINS = 4 };
    float scale = 1 / sqrtf((float)size);
    vf s[CHAINS][VECTORS];
    for (int c = 0; c < CHAINS; c++)
        for (int i = 0; i < VECTORS; i++) s[c][i] = (vf){0};
    for (int j = 0; j < size; j += CHAINS) {
        fetch(keys, 2048 + (uintptr_t)j * KEY_BLOCK);
        for (int c = 0; c < CHAINS; c++)
            for (int i = 0; i < VECTORS; i++)
                s[c][i] +=
                    NAME(elements)(keys, (size_t)(j + c) * KEY_BLOCK + i * LANES, format) * query[j + c];
    }
    for (int i = 0; i < VECTORS; i++) {
        vf sum = ((s[0][i] + s[1][i]) + (s[2][i] + s[3][i])) * scale;
        if (format == INT8) sum *= NAME(load)((const float *)(keys + size * KEY_BLOCK) + i * LANES);
        NAME(store)(scores + i * LANES, sum);
    }
}

/* Computes `width` elements of the output from `start` on. */
ALWAYS void NAME(mix)(int width, const char *values, int format, const float *scores, int length,
                      int size, int start, float factor, float *out) {
    vf total[64 / LANES];
    for (int i = 0; i < width / LANES; i++) total[i] = (vf){0};
    for (int t = 0; t < length; t++) {
        fetch(values, 2048 + (uintptr_t)t * size);
        for (int i = 0; i < width / LANES; i++)
            total[i] +=
                NAME(elements)(values, (size_t)t * size + start + i * LANES, format) * scores[t];
    }
    for (int i = 0; i < width / LANES; i++) NAME(store)(out + start + i * LANES, total[i] * factor);
}

ALWAYS void NAME(attend_in)(int format, Cache cache, const float *query, int length, int size,
                            float *scores, float *out) {
    int blocks = (length + KEY_BLOCK - 1) / KEY_BLOCK;
    size_t bytes = (size_t)size * KEY_BLOCK * sizeof(float);
    if (format == INT8) bytes = (size_t)size * KEY_BLOCK + KEY_BLOCK * sizeof(float);
    for (int b = 0; b < blocks; b++)
        NAME(score)(cache.keys + b * bytes, format, query, size, scores + b * KEY_BLOCK);
    /* The rest of the last block belongs to an earlier sequence. */
    for (int t = length; t < blocks * KEY_BLOCK; t++) scores[t] = -INFINITY;
    vf most = (vf){0} - INFINITY, total = {0};
    for (int t = 0; t < blocks * KEY_BLOCK; t += LANES)
        most = NAME(maximum)(most, NAME(load)(scores + t));
    float peak = NAME(largest)(most);
    for (int t = 0; t < blocks * KEY_BLOCK; t += LANES) {
        vf e = NAME(exp)(NAME(load)(scores + t) - peak);
        total += e;
        if (format == INT8) e *= NAME(load)(cache.scales + t);
        NAME(store)(scores + t, e);
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

/* The softmax of each head's first `length` scores, at most FOLDED_STATES; the rest of `padded` is 0. */
static void NAME(softmax)(float *to, const float *scores, int heads, int length, int padded) {
    for (int head = 0; head < heads; head++, to += padded, scores += padded) {
        float e[FOLDED_STATES];
        for (int t = 0; t < FOLDED_STATES; t++) e[t] = t < length ? scores[t] : -INFINITY;
        vf most = (vf){0} - INFINITY, total = {0};
        for (int t = 0; t < FOLDED_STATES; t += LANES) most = NAME(maximum)(most, NAME(load)(e + t));
        float peak = NAME(largest)(most);
        for (int t = 0; t < FOLDED_STATES; t += LANES) {
            vf some = NAME(exp)(NAME(load)(e + t) - peak);
            NAME(store)(e + t, some);
            total += some;
        }
        float factor = 1 / NAME(sum)(total);
        for (int t = 0; t < padded; t++) to[t] = t < length ? e[t] * factor : 0;
    }
}

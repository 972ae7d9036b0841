/* How the weights of a matrix lie in memory, and how they come there. */
#pragma once

#include "threads.h"

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

/* How the weights of a matrix lie in memory, and how they come there. */
#pragma once

#include "threads.h"

static size_t group_bytes(int inputs) { return (size_t)inputs * BLOCK + BLOCK * sizeof(uint16_t); }

/* The shape of a matrix; its bytes are blocks * block_bytes. */
static Matrix matrix_of(int outputs, int inputs, int format) {
    int groups = inputs / GROUP, rest = inputs % GROUP;
    size_t bytes = (size_t)inputs * BLOCK * sizeof(float);
    if (format == INT8) bytes = groups * group_bytes(GROUP) + (rest ? group_bytes(rest) : 0);
    return (Matrix){NULL, bytes, outputs / BLOCK, inputs};
}

static int make_matrix(Model *m, Matrix *matrix, int outputs, int inputs) {
    *matrix = matrix_of(outputs, inputs, m->shape.format);
    matrix->data = grab(m, matrix->blocks * matrix->block_bytes, 1);
    return matrix->data != NULL;
}

typedef struct {
    Matrix *matrix;
    const float *data;
    int first;
    int blocks;
} Packing;

static void turn(float *to, const float *from, int inputs, int width) {
    for (int k = 0; k < width; k++)
        for (int o = 0; o < BLOCK; o++) *to++ = from[(size_t)o * inputs + k];
}

static void pack_int8(const Kernels *kernels, char *to, const float *from, int inputs) {
    for (int start = 0; start < inputs; start += GROUP) {
        float turned[GROUP * BLOCK];
        int width = inputs - start < GROUP ? inputs - start : GROUP;
        turn(turned, from + start, inputs, width);
        kernels->pack(to, turned, BLOCK, width);
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
            if (m->shape.format == INT8) pack_int8(m->kernels, to, from, inputs);
            else turn((float *)to, from, inputs, inputs);
        }
}

/* The memory layout of matrices, and how weights are packed into it. */
#pragma once

#include "threads.h"

static size_t group_bytes(int inputs) { return (size_t)inputs * BLOCK + BLOCK * sizeof(uint16_t); }

/* A matrix without data; it needs blocks * block_bytes. */
static Matrix matrix_of(int outputs, int inputs, int format) {
    int groups = inputs / GROUP, rest = inputs % GROUP;
    size_t bytes = (size_t)inputs * BLOCK * sizeof(float);
    if (format == INT8) bytes = groups * group_bytes(GROUP) + (rest ? group_bytes(rest) : 0);
    return (Matrix){NULL, bytes, outputs / BLOCK, inputs};
}

static int make_matrix(Model *m, Matrix *matrix, int outputs, int inputs) {
    *matrix = matrix_of(outputs, inputs, m->shape.format);
    matrix->data = allocate(m, matrix->blocks * matrix->block_bytes, 1);
    return matrix->data != NULL;
}

typedef struct {
    Matrix *matrix;
    const float *data;
    int first;
    int blocks;
} Packing;

static void transpose(float *to, const float *from, int inputs, int width) {
    for (int k = 0; k < width; k++)
        for (int o = 0; o < BLOCK; o++) *to++ = from[(size_t)o * inputs + k];
}

static void pack_int8(const Kernels *kernels, char *to, const float *from, int inputs) {
    for (int start = 0; start < inputs; start += GROUP) {
        float transposed[GROUP * BLOCK];
        int width = inputs - start < GROUP ? inputs - start : GROUP;
        transpose(transposed, from + start, inputs, width);
        kernels->pack(to, transposed, BLOCK, width);
        to += group_bytes(width);
    }
}

static void pack(Model *m, int thread) {
    const Packing *p = m->argument;
    int first, last, inputs = p->matrix->inputs;
    (void)thread;
    while (take_share(m, p->blocks, &first, &last))
        for (int block = first; block < last; block++) {
            char *to = p->matrix->data + (p->first / BLOCK + block) * p->matrix->block_bytes;
            const float *from = p->data + (size_t)block * BLOCK * inputs;
            if (m->shape.format == INT8) pack_int8(m->kernels, to, from, inputs);
            else transpose((float *)to, from, inputs, inputs);
        }
}

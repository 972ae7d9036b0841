/* Preparation of rows and multiplication with a matrix, on all threads. */
#pragma once

#include "levels.h"
#include "threads.h"

/* The rows before their preparation: floats, with an optional norm. */
typedef struct {
    const float *x;
    int width;
    const Norm *norm;
} Source;

typedef void Preparation(const Model *m, const Inputs *to, int row, const Source *from);

/* Calls `one` for each row and returns the prepared rows. */
static const Inputs *prepare_with(Preparation *one, Model *m, int thread, int rows, const Source *from) {
    Inputs *to = rows <= UNSHARED_ROWS ? &m->thread_inputs[thread] : &m->shared_inputs;
    int first = 0, last = rows;
    if (to == &m->shared_inputs) {
        while (take_share(m, rows, &first, &last))
            for (int row = first; row < last; row++) one(m, to, row, from);
        barrier(m);
    } else {
        for (int row = 0; row < rows; row++) one(m, to, row, from);
    }
    return to;
}

static void prepare_row(const Model *m, const Inputs *to, int row, const Source *from) {
    const float *x = from->x + (size_t)row * from->width;
    m->kernels->prepare(to, row, x, from->norm, from->width, m->shape.format);
}

static const Inputs *prepare(Model *m, int thread, const float *x, int width, const Norm *norm,
                             int rows) {
    return prepare_with(prepare_row, m, thread, rows, &(Source){x, width, norm});
}

static void multiply(Model *m, const Matrix *matrix, const Inputs *in, int rows, const Sink *to) {
    int first, last;
    while (take_share(m, matrix->blocks, &first, &last))
        m->kernels->multiply(matrix, first, last, in, rows, m->shape.format, to);
    barrier(m);
}

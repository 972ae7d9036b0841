/* Rows on their way through a matrix, on all threads. */
#pragma once

#include "levels.h"
#include "threads.h"

/* What rows are made of before a matrix reads them. */
typedef struct {
    const float *x;
    int width;
    const Norm *norm;
} Source;

typedef void Preparation(const Model *m, const Inputs *to, int row, const Source *from);

/* Few rows are prepared by each thread for itself. */
static const Inputs *prepare_by(Preparation *one, Model *m, int worker, int rows, const Source *from) {
    Inputs *to = rows <= ALONE ? &m->own[worker] : &m->shared;
    int first = 0, last = rows;
    if (to == &m->shared) {
        while (take(m, rows, &first, &last))
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

/* Rows as the next matrix reads them. */
static const Inputs *prepare(Model *m, int worker, const float *x, int width, const Norm *norm,
                             int rows) {
    return prepare_by(prepare_row, m, worker, rows, &(Source){x, width, norm});
}

static void multiply(Model *m, const Matrix *matrix, const Inputs *in, int rows, const Sink *to) {
    int first, last;
    while (take(m, matrix->blocks, &first, &last))
        m->kernels->multiply(matrix, first, last, in, rows, m->shape.format, to);
    barrier(m);
}

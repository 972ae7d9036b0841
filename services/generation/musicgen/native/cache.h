/* Keys and values: where they lie, and the outputs of a matrix that become some. */
#pragma once

#include "model.h"

ALWAYS uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void put(char *at, size_t index, float value, int format) {
    if (format == INT8) ((uint16_t *)at)[index] = to_bfloat16(value);
    else ((float *)at)[index] = value;
}

static Cache self_cache(const Model *m, int slot, int guided, int layer, int head) {
    size_t plane = (size_t)m->capacity * m->head_size * m->element;
    size_t index = (((size_t)slot * 2 + guided) * m->shape.layers + layer) * m->shape.heads + head;
    char *keys = m->cache + index * 2 * plane;
    return (Cache){keys, keys + plane};
}

static Cache cross_cache(const Model *m, int slot, int layer, int head) {
    const Conditioning *c = &m->conditioning[slot];
    size_t plane = (size_t)c->capacity * m->head_size * m->element;
    char *keys = c->data + ((size_t)layer * m->shape.heads + head) * 2 * plane;
    return (Cache){keys, keys + plane};
}

static void put_key(const Model *m, Cache c, int position, int value, const float *from) {
    size_t start = ((size_t)(position / KEYS) * m->head_size + value) * KEYS + position % KEYS;
    for (int i = 0; i < 16; i++) put(c.keys, start + (size_t)i * KEYS, from[i], m->shape.format);
}

static void put_value(const Model *m, Cache c, int position, int value, const float *from) {
    size_t start = (size_t)position * m->head_size + value;
    for (int i = 0; i < 16; i++) put(c.values, start + i, from[i], m->shape.format);
}

/* A block of fused queries, keys and values: 16 outputs at a time are of one head. */
static void sink_self(const Sink *to, int block, int row, const float *out) {
    const Model *m = to->model;
    int hidden = m->shape.hidden, part = block * BLOCK / hidden, place = row % m->places;
    if (part == 0) {
        memcpy(to->out + row * to->stride + (size_t)block * BLOCK, out, BLOCK * sizeof *out);
        return;
    }
    for (int i = 0; i < BLOCK; i += 16) {
        int output = block * BLOCK % hidden + i;
        Cache c = self_cache(m, m->slots[place], row >= m->places, to->layer, output / m->head_size);
        (part == 1 ? put_key : put_value)(m, c, m->at[place], output % m->head_size, out + i);
    }
}

/* The same of the conditioning, where there are no queries. */
static void sink_cross(const Sink *to, int block, int row, const float *out) {
    const Model *m = to->model;
    int hidden = m->shape.hidden, part = block * BLOCK / hidden;
    for (int i = 0; i < BLOCK; i += 16) {
        int output = block * BLOCK % hidden + i;
        Cache c = cross_cache(m, to->slot, to->layer, output / m->head_size);
        (part == 0 ? put_key : put_value)(m, c, to->first + row, output % m->head_size, out + i);
    }
}

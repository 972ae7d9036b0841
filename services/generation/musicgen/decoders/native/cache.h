/* The layout of the keys and values of a head, and how they are stored.
 *
 * Keys are [position / KEY_BLOCK][value][position % KEY_BLOCK], values are [position][value]: both are
 * read sequentially. With int8 weights they are int8, and each key and value has a float scale. The
 * scales of keys follow each block; those of values follow all values. */
#pragma once

#include "model.h"

static size_t key_block_bytes(const Model *m) {
    size_t scales = m->shape.format == INT8 ? KEY_BLOCK * sizeof(float) : 0;
    return m->head_size * KEY_BLOCK * m->element_bytes + scales;
}

/* Bytes of a head's keys, or of its values; `capacity` is a multiple of KEY_BLOCK. */
static size_t plane_bytes(const Model *m, int capacity) {
    return capacity / KEY_BLOCK * key_block_bytes(m);
}

static Cache cache_at(const Model *m, char *start, size_t index, int capacity) {
    char *keys = start + index * 2 * plane_bytes(m, capacity), *values = keys + plane_bytes(m, capacity);
    return (Cache){keys, values, (float *)(values + (size_t)capacity * m->head_size * m->element_bytes)};
}

static Cache self_cache(const Model *m, int slot, int guided, int layer, int head) {
    size_t index = (((size_t)slot * 2 + guided) * m->shape.layers + layer) * m->shape.heads + head;
    return cache_at(m, m->cache, index, m->capacity);
}

static Cache cross_cache(const Model *m, int slot, int layer, int head) {
    const Conditioning *c = &m->conditioning[slot];
    return cache_at(m, c->data, (size_t)layer * m->shape.heads + head, c->capacity);
}

static void store_key_value(const Model *m, Cache c, int position, const float *key, const float *value) {
    int size = m->head_size, lane = position % KEY_BLOCK;
    char *block = c.keys + position / KEY_BLOCK * key_block_bytes(m);
    char *values = c.values + (size_t)position * size * m->element_bytes;
    if (m->shape.format == FLOAT32) {
        for (int i = 0; i < size; i++) ((float *)block)[i * KEY_BLOCK + lane] = key[i];
        memcpy(values, value, size * sizeof *value);
        return;
    }
    int8_t whole[size];
    int32_t sum;
    ((float *)(block + (size_t)size * KEY_BLOCK))[lane] = m->kernels->quantise(whole, key, size, &sum);
    for (int i = 0; i < size; i++) block[i * KEY_BLOCK + lane] = (char)whole[i];
    c.scales[position] = m->kernels->quantise((int8_t *)values, value, size, &sum);
}

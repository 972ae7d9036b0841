/* Packing of matrices for one instruction set: kernels.h includes this. */

/* Converts a block of an int8 matrix to floats, [width][BLOCK]. */
static void NAME(unpack)(float *to, const char *weights, int width) {
    for (int start = 0; start < width; start += GROUP) {
        int end = width - start < GROUP ? width : start + GROUP;
        const char *scales = weights + (size_t)(end - start) * BLOCK;
        for (int k = start; k < end; k += 4, weights += 4 * BLOCK)
            for (int i = 0; i < BLOCK; i += LANES) {
                vi fours = *(const NAME(integers) *)(weights + 4 * i);
                for (int j = 0; j < 4; j++) {
                    vi one = fours << (24 - 8 * j) >> 24;
                    vf value = __builtin_convertvector(one, vf) * NAME(load_bfloat16)(scales, i);
                    NAME(store)(to + (size_t)(k + j) * BLOCK + i, value);
                }
            }
        weights += BLOCK * sizeof(uint16_t);
    }
}

/* Packs a block of outputs of an int8 matrix from [width][stride] floats. */
static void NAME(pack)(char *to, const float *from, size_t stride, int width) {
    for (int start = 0; start < width; start += GROUP) {
        int end = width - start < GROUP ? width : start + GROUP;
        vf inverse[PARTS];
        for (int i = 0; i < PARTS; i++) {
            vf peak = {0};
            for (int k = start; k < end; k++)
                peak = NAME(maximum)(peak, NAME(magnitude)(NAME(load)(from + k * stride + i * LANES)));
            /* Rounded up, so that no quantised value exceeds 127. */
            NAME(words) scale = ((NAME(words))(peak / 127) + 0xffff) >> 16;
            char *scales = to + (size_t)(end - start) * BLOCK + (size_t)i * LANES * sizeof(uint16_t);
            *(NAME(halves) *)scales = __builtin_convertvector(scale, NAME(halves));
            inverse[i] = NAME(select)((vi)(peak > (vf){0} + 1e-30f), 1 / (vf)(scale << 16), (vf){0});
        }
        for (int k = start; k < end; k += 4, to += 4 * BLOCK)
            for (int i = 0; i < PARTS; i++) {
                vi four = {0};
                for (int j = 0; j < 4; j++) {
                    vf x = NAME(load)(from + (k + j) * stride + i * LANES);
                    four |= (NAME(nearest)(x * inverse[i]) & 0xff) << (8 * j);
                }
                *(NAME(integers) *)(to + 4 * LANES * i) = four;
            }
        to += BLOCK * sizeof(uint16_t);
    }
}

/* Adds the sum of w[row][d] x[d][i] over d < depth to to[row][i], for i < width. Rows are processed in
 * fours and columns in LANES; beyond the last ones, zeros in w or x add nothing. */
static void NAME(fold)(float *to, size_t stride, int rows, int width, int depth, const float *w,
                       size_t by_row, size_t by_depth, const float *x, size_t by_x) {
    for (int row = 0; row < rows; row += 4)
        for (int i = 0; i < width; i += LANES) {
            float *at = to + row * stride + i;
            vf sums[4];
            for (int j = 0; j < 4; j++) sums[j] = NAME(load)(at + j * stride);
            for (int d = 0; d < depth; d++) {
                vf some = NAME(load)(x + d * by_x + i);
                const float *weight = w + row * by_row + d * by_depth;
                for (int j = 0; j < 4; j++) sums[j] += some * weight[j * by_row];
            }
            for (int j = 0; j < 4; j++) NAME(store)(at + j * stride, sums[j]);
        }
}

/* From logits to tokens, as in sampling.py: the same distribution, and the same noise of a (seed, step,
 * codebook, token). Noise is computed only for tokens that can still be drawn. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

/* Mirrored by `Draw` in library.py. */
typedef struct {
    uint64_t seed, step;
    double top_p;
    float guidance, temperature;
    int32_t top_k, greedy;
} Draw;

typedef struct {
    float score;
    int32_t token;
} Candidate;

/* The finaliser of SplitMix64 (Steele, Lea, Flood, 2014). */
static uint64_t mix(uint64_t bits) {
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return bits ^ bits >> 31;
}

static const uint64_t GOLDEN_GAMMA = 0x9E3779B97F4A7C15u;

static float gumbel_noise(uint64_t stream, int token) {
    uint64_t bits = mix(stream + (uint64_t)(token + 1) * GOLDEN_GAMMA);
    float uniform = ((float)(bits >> 41) + 0.5f) * 0x1p-23f;
    return -logf(-logf(uniform));
}

/* Maps floats to integers of the same order, NaN included: integer comparisons are always consistent. */
static uint32_t rank(float x) {
    union {
        float x;
        uint32_t bits;
    } as = {x + 0.0f}; /* -0 is 0 */
    return as.bits >> 31 ? ~as.bits : as.bits | 0x80000000u;
}

/* Hoare's FIND: returns the k-th greatest, k from 1; reorders `ranks`. */
static uint32_t kth_greatest(uint32_t *ranks, int count, int k) {
    int low = 0, high = count - 1, wanted = k - 1;
    while (low < high) {
        uint32_t pivot = ranks[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (ranks[i] > pivot) i++;
            while (ranks[j] < pivot) j--;
            if (i > j) break;
            uint32_t other = ranks[i];
            ranks[i++] = ranks[j];
            ranks[j--] = other;
        }
        if (wanted <= j) high = j;
        else if (wanted >= i) low = i;
        else break;
    }
    return ranks[wanted];
}

/* Collects the tokens whose score is at least the k-th greatest, and returns their number; k = 0 keeps
 * all. */
static int keep_top_k(const float *scores, int size, int k, uint32_t *ranks, Candidate *to) {
    uint32_t least = 0;
    int count = 0;
    if (k > 0 && k < size) {
        for (int token = 0; token < size; token++) ranks[token] = rank(scores[token]);
        least = kth_greatest(ranks, size, k);
    }
    for (int token = 0; token < size; token++)
        if (rank(scores[token]) >= least) to[count++] = (Candidate){scores[token], token};
    return count;
}

static int ascending(const void *first, const void *second) {
    const Candidate *a = first, *b = second;
    if (a->score != b->score) return a->score < b->score ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* Sorts the candidates in ascending order, and returns the number of those below the likeliest that
 * together reach the probability p. */
static int below_top_p(Candidate *candidates, int count, double p) {
    float total = 0;
    double below = 0; /* PyTorch's cumsum adds in double too */
    qsort(candidates, count, sizeof *candidates, ascending);
    float greatest = candidates[count - 1].score;
    for (int i = 0; i < count; i++) total += expf(candidates[i].score - greatest);
    for (int i = 0; i < count - 1; i++) {
        below += expf(candidates[i].score - greatest) / total;
        if (!((float)below <= (float)(1 - p))) return i;
    }
    return count - 1;
}

static int32_t greatest(const Candidate *candidates, int count) {
    Candidate best = candidates[0];
    for (int i = 1; i < count; i++)
        if (candidates[i].score > best.score ||
            (candidates[i].score == best.score && candidates[i].token < best.token))
            best = candidates[i];
    return best.token;
}

static int32_t draw(const Draw *how, int codebook, const float *scores, int size, uint32_t *ranks,
                    Candidate *candidates) {
    int count = keep_top_k(scores, size, how->greedy ? 1 : how->top_k, ranks, candidates), first = 0;
    if (how->greedy) return greatest(candidates, count);
    if (how->top_p > 0 && how->top_p < 1) first = below_top_p(candidates, count, how->top_p);
    uint64_t stream = mix(mix(mix(how->seed) + how->step) + (uint64_t)codebook * GOLDEN_GAMMA);
    for (int i = first; i < count; i++) candidates[i].score += gumbel_noise(stream, candidates[i].token);
    return greatest(candidates + first, count - first);
}

/* Draws tokens [requests][codebooks] from logits [2][requests][codebooks][size], conditional first.
 * Returns 0, or -2 without memory. */
EXPORT int musicgen_draw(int requests, int codebooks, int size, const float *logits, const Draw *draws,
                         int64_t *tokens) {
    float *scores = malloc(size * sizeof *scores);
    uint32_t *ranks = malloc(size * sizeof *ranks);
    Candidate *candidates = malloc(size * sizeof *candidates);
    int has_memory = scores && ranks && candidates;
    for (int cell = 0; has_memory && cell < requests * codebooks; cell++) {
        const Draw *how = &draws[cell / codebooks];
        const float *conditional = logits + (size_t)cell * size;
        const float *unconditional = conditional + (size_t)requests * codebooks * size;
        for (int token = 0; token < size; token++) {
            float guided =
                unconditional[token] + how->guidance * (conditional[token] - unconditional[token]);
            scores[token] = guided / how->temperature;
        }
        tokens[cell] = draw(how, cell % codebooks, scores, size, ranks, candidates);
    }
    free(scores);
    free(ranks);
    free(candidates);
    return has_memory ? 0 : -2;
}

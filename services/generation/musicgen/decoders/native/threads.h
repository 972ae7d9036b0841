/* The threads of a model: they run a job together, and meet at a barrier. */
#pragma once

#include "model.h"

ALWAYS void pause_a_little(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex(atomic_uint *word, int operation, unsigned value) {
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Waits for all threads. The phases between two of these take microseconds, so that a thread looks
 * for a while before it sleeps; on a busy machine it soon gives its core to the one it waits for. */
static void barrier(Model *m) {
    enum { LOOKS = 4000 };
    unsigned round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == (unsigned)m->shape.threads) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->taken, 0);
        atomic_store(&m->round, round + 1);
        if (atomic_load(&m->sleepers)) futex(&m->round, FUTEX_WAKE, INT_MAX);
        return;
    }
    for (int i = 0; i < LOOKS; i++) {
        if (atomic_load_explicit(&m->round, memory_order_acquire) != round) return;
        pause_a_little();
    }
    atomic_fetch_add(&m->sleepers, 1);
    while (atomic_load(&m->round) == round) futex(&m->round, FUTEX_WAIT, round);
    atomic_fetch_sub(&m->sleepers, 1);
}

/* A share of what is left of `total` items; shares shrink, so that cores of unlike speed, or busy
 * with something else, end together. There are not many, for each begins with a wait for the memory.
 * A barrier must follow the last one. */
static int take(Model *m, int total, int *first, int *last) {
    enum { LEAST = 2 };
    int start = atomic_load_explicit(&m->taken, memory_order_relaxed), count, left;
    do {
        left = total - start;
        if (left <= 0) return 0;
        count = m->shape.threads == 1 ? left : 3 * left / (4 * m->shape.threads);
        if (count < LEAST) count = left < LEAST ? left : LEAST;
    } while (!atomic_compare_exchange_weak(&m->taken, &start, start + count));
    *first = start;
    *last = start + count;
    return 1;
}

/* Runs a job on all threads, the caller's included. */
static void run(Model *m, void (*job)(Model *, int), const void *argument) {
    m->job = job;
    m->argument = argument;
    barrier(m);
    job(m, 0);
    barrier(m);
}

typedef struct {
    Model *model;
    int worker;
} Start;

static void *work(void *argument) {
    Start start = *(Start *)argument;
    free(argument);
    /* Nobody may come to the barrier before it is known for how many. */
    pthread_mutex_lock(&start.model->gate);
    pthread_mutex_unlock(&start.model->gate);
    for (;;) {
        barrier(start.model);
        if (!start.model->job) return NULL;
        start.model->job(start.model, start.worker);
        barrier(start.model);
    }
}

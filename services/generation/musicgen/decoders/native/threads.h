/* The threads of a model: they run jobs together and synchronise at barriers. */
#pragma once

#include "model.h"

ALWAYS void pause_cpu(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex(atomic_uint *word, int operation, unsigned value) {
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Waits for all threads. Phases between barriers take microseconds, so that a thread spins before it
 * sleeps; it spins briefly, to free its core for other threads on a busy machine. */
static void barrier(Model *m) {
    enum { SPINS = 4000 };
    unsigned round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == (unsigned)m->shape.threads) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->taken, 0);
        atomic_store(&m->round, round + 1);
        if (atomic_load(&m->sleepers)) futex(&m->round, FUTEX_WAKE, INT_MAX);
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&m->round, memory_order_acquire) != round) return;
        pause_cpu();
    }
    atomic_fetch_add(&m->sleepers, 1);
    while (atomic_load(&m->round) == round) futex(&m->round, FUTEX_WAIT, round);
    atomic_fetch_sub(&m->sleepers, 1);
}

/* Takes a share of the remaining items, or returns 0 if none remain. Shares shrink, so that cores of
 * different speed or load finish together. They are few, because each starts with a wait for memory.
 * A barrier must follow the last share. */
static int take_share(Model *m, int total, int *first, int *last) {
    enum { MIN_SHARE = 2 };
    int start = atomic_load_explicit(&m->taken, memory_order_relaxed), count, left;
    do {
        left = total - start;
        if (left <= 0) return 0;
        count = m->shape.threads == 1 ? left : 3 * left / (4 * m->shape.threads);
        if (count < MIN_SHARE) count = left < MIN_SHARE ? left : MIN_SHARE;
    } while (!atomic_compare_exchange_weak(&m->taken, &start, start + count));
    *first = start;
    *last = start + count;
    return 1;
}

/* Runs a job on all threads, including the caller's. */
static void run_job(Model *m, void (*job)(Model *, int), const void *argument) {
    m->job = job;
    m->argument = argument;
    barrier(m);
    job(m, 0);
    barrier(m);
}

typedef struct {
    Model *model;
    int thread;
} Start;

static void *thread_main(void *argument) {
    Start start = *(Start *)argument;
    free(argument);
    /* start_threads sets the number of threads, which the barrier needs, before it unlocks. */
    pthread_mutex_lock(&start.model->start_lock);
    pthread_mutex_unlock(&start.model->start_lock);
    for (;;) {
        barrier(start.model);
        if (!start.model->job) return NULL;
        start.model->job(start.model, start.thread);
        barrier(start.model);
    }
}

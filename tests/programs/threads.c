/* Covers: POSIX threads, C11 atomics in every memory order and width, compare-and-swap loops, mutex, rwlock, condition
 *         variables, barriers, spin locks, thread-local storage, thread-specific data with destructors, pthread_once.
 * Expected: prints fixed results whatever the interleaving, exit 0.
 * flags: -pthread
 * threads: yes
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))
#define THREADS 4
#define ROUNDS 3000

static atomic_long counter_seq, counter_relaxed, counter_acqrel;
static _Atomic uint8_t byte_counter;
static _Atomic uint16_t word_counter;
static _Atomic uint32_t or_bits, and_bits = 0xffffffff, xor_bits;
static atomic_ulong maximum;
static atomic_flag spin = ATOMIC_FLAG_INIT;
static long spin_guarded, mutex_guarded, rw_guarded;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static atomic_int destroyed, initialised;
static __thread long tls_counter = 5;
static _Thread_local struct { int a; char pad[100]; long b; } tls_block = {7, {0}, 9};
__thread long tls_exported;

struct item { struct item *next; long value; };
static _Atomic(struct item *) stack;

static NOINLINE void push(struct item *i) {
    i->next = atomic_load_explicit(&stack, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&stack, &i->next, i, memory_order_release, memory_order_relaxed)) {}
}
static NOINLINE void raise_maximum(unsigned long v) {
    unsigned long seen = atomic_load_explicit(&maximum, memory_order_acquire);
    while (seen < v && !atomic_compare_exchange_strong_explicit(&maximum, &seen, v, memory_order_acq_rel, memory_order_acquire)) {}
}
static NOINLINE void spin_add(long v) {
    while (atomic_flag_test_and_set_explicit(&spin, memory_order_acquire)) __builtin_ia32_pause();
    spin_guarded += v;
    atomic_flag_clear_explicit(&spin, memory_order_release);
}
static NOINLINE long tls_work(int id, int i) {
    tls_counter += id * 3 + i;
    tls_block.a ^= (int)tls_counter;
    tls_block.b += tls_block.a & 0xff;
    tls_exported++;
    return tls_block.b;
}
static void destroy(void *p) { atomic_fetch_add(&destroyed, *(int *)p); free(p); }
static void init(void) { atomic_fetch_add(&initialised, 1); pthread_key_create(&key, destroy); }

struct result { long tls, sum; };

static void *worker(void *argument) {
    int id = (int)(intptr_t)argument;
    struct result *result = calloc(1, sizeof *result);
    pthread_once(&once, init);
    int *mine = malloc(sizeof *mine);
    *mine = id + 1;
    pthread_setspecific(key, mine);
    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&counter_seq, 1);
        atomic_fetch_add_explicit(&counter_relaxed, i, memory_order_relaxed);
        atomic_fetch_sub_explicit(&counter_acqrel, 2, memory_order_acq_rel);
        byte_counter++;
        word_counter += 3;
        atomic_fetch_or_explicit(&or_bits, 1u << (i + id) % 32, memory_order_release);
        if (i < 16) atomic_fetch_and_explicit(&and_bits, ~(1u << (id * 4 + i % 4)), memory_order_acquire);
        atomic_fetch_xor(&xor_bits, (uint32_t)i * 2654435761u);
        raise_maximum((unsigned long)(i * 7 % 1000 + id));
        if (i % 8 == 0) {
            spin_add(i);
            pthread_mutex_lock(&mutex);
            mutex_guarded = mutex_guarded + i;
            pthread_mutex_unlock(&mutex);
            pthread_rwlock_wrlock(&rw);
            rw_guarded++;
            pthread_rwlock_unlock(&rw);
            struct item *item = malloc(sizeof *item);
            item->value = id * ROUNDS + i;
            push(item);
        }
        result->sum += tls_work(id, i);
    }
    pthread_barrier_wait(&barrier);
    pthread_rwlock_rdlock(&rw);
    result->sum += rw_guarded;
    pthread_rwlock_unlock(&rw);
    result->tls = tls_counter + tls_exported;
    return result;
}

static pthread_cond_t ready = PTHREAD_COND_INITIALIZER;
static int turn, queue[16], head, tail;
static void *consumer(void *argument) {
    long s = 0;
    (void)argument;
    for (;;) {
        pthread_mutex_lock(&mutex);
        while (head == tail && !turn) pthread_cond_wait(&ready, &mutex);
        if (head == tail) { pthread_mutex_unlock(&mutex); return (void *)s; }
        s = s * 3 + queue[head++ % 16];
        pthread_cond_broadcast(&ready);
        pthread_mutex_unlock(&mutex);
    }
}

int main(void) {
    pthread_t t[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&t[i], NULL, worker, (void *)(intptr_t)i)) return 2;
    long tls = 0, sum = 0;
    for (int i = 0; i < THREADS; i++) {
        struct result *r;
        pthread_join(t[i], (void **)&r);
        tls = tls * 31 + r->tls;
        sum = sum * 31 + r->sum;
        free(r);
    }
    printf("atomics %ld %ld %ld %u %u\n", counter_seq, counter_relaxed, counter_acqrel, byte_counter, word_counter);
    printf("bits %08x %08x %08x max %lu\n", or_bits, and_bits, xor_bits, maximum);
    printf("locks %ld %ld %ld\n", spin_guarded, mutex_guarded, rw_guarded);
    printf("tls %ld %ld main %ld %ld\n", tls, sum, tls_counter, tls_exported);
    printf("keys %d once %d\n", destroyed, initialised);
    long items = 0, count = 0;
    for (struct item *i = stack, *n; i; i = n) { n = i->next; items += i->value; count++; free(i); }
    printf("stack %ld %ld\n", count, items);
    pthread_create(&t[0], NULL, consumer, NULL);
    for (int i = 0; i < 500; i++) {
        pthread_mutex_lock(&mutex);
        while (tail - head == 16) pthread_cond_wait(&ready, &mutex);
        queue[tail++ % 16] = i;
        pthread_cond_broadcast(&ready);
        pthread_mutex_unlock(&mutex);
    }
    pthread_mutex_lock(&mutex);
    turn = 1;
    pthread_cond_broadcast(&ready);
    pthread_mutex_unlock(&mutex);
    void *s;
    pthread_join(t[0], &s);
    printf("queue %ld\n", (long)s);
    return 0;
}

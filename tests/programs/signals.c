/* Covers: a timer signal that arrives all the time while instrumented code computes (handler itself instrumented, uses
 *         floating point and its own stack frames), raise, sigsuspend, nested signals, signal masks, alternate stack.
 * Expected: prints fixed results, exit 0; exit 1 when no timer signal came.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static volatile sig_atomic_t ticks, users, nested_seen;
static volatile double noise = 1;
static volatile long scratch[16];

static NOINLINE long handler_work(int n) {
    volatile long local[24];
    for (int i = 0; i < 24; i++) local[i] = i * n;
    long s = 0;
    for (int i = 0; i < 24; i++) s ^= local[i] << (i & 7);
    return s;
}
static void on_alarm(int sig) {
    (void)sig;
    ticks++;
    noise = noise * 1.0000001 + 0.5;
    scratch[ticks & 15] = handler_work(ticks);
}
static void on_user(int sig, siginfo_t *info, void *context) {
    (void)context;
    users += sig == info->si_signo ? 1 : 100;
    if (users < 5) raise(SIGUSR1);
    nested_seen = users;
}
static NOINLINE uint32_t crc(const uint8_t *p, size_t n) {
    uint32_t c = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    }
    return ~c;
}
static NOINLINE double integrate(int n) {
    double s = 0;
    for (int i = 0; i < n; i++) { double x = (i + 0.5) / n; s += 4 / (1 + x * x); }
    return s / n;
}
static NOINLINE unsigned collatz(unsigned long limit) {
    unsigned best = 0;
    for (unsigned long i = 1; i < limit; i++) {
        unsigned n = 0;
        for (unsigned long v = i; v != 1; n++) v = v & 1 ? 3 * v + 1 : v >> 1;
        if (n > best) best = n;
    }
    return best;
}
static NOINLINE int red_zone_leaf(int a, int b) {
    volatile int v[20];
    for (int i = 0; i < 20; i++) v[i] = a * i ^ b;
    int s = 0;
    for (int i = 0; i < 20; i++) s += v[19 - i] * (i + 1);
    return s;
}

int main(void) {
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_alarm;
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    sa.sa_flags = SA_RESTART | SA_ONSTACK;
    sigaction(SIGVTALRM, &sa, NULL);
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_user;
    sa.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGUSR1, &sa, NULL);
    struct itimerval every = {{0, 150}, {0, 150}};
    setitimer(ITIMER_REAL, &every, NULL);
    setitimer(ITIMER_VIRTUAL, &every, NULL);

    static uint8_t data[4096];
    for (int i = 0; i < 4096; i++) data[i] = (uint8_t)(i * 31 >> 3);
    uint32_t c = 0;
    long s = 0;
    double d = 0;
    for (int round = 0; round < 30; round++) {
        c ^= crc(data, sizeof data) + (uint32_t)round;
        d += integrate(20000);
        s = s * 3 + collatz(1500);
        for (int i = 0; i < 3000; i++) s += red_zone_leaf(i, round);
    }
    printf("crc %08x pi %.9f s %ld\n", c, d, s);
    raise(SIGUSR1);
    printf("users %d nested %d\n", (int)users, (int)nested_seen);
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, &old);
    kill(getpid(), SIGUSR1);
    int before = users;
    sigset_t wait = old;
    sigdelset(&wait, SIGUSR1);
    while (users == before) sigsuspend(&wait);
    printf("suspend %d\n", users - before);
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    setitimer(ITIMER_VIRTUAL, &every, NULL);
    return ticks > 0 ? 0 : 1;
}

/* Covers: SIGSEGV handler that siglongjmps out of instrumented code, SIGSEGV handler that repairs the page and returns
 *         (the access runs again), SIGFPE by integer division, SIGILL by ud2, SIGBUS, stack overflow on an alternate stack.
 * Expected: prints fixed results, exit 0.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static sigjmp_buf recover;
static volatile sig_atomic_t last_signal, faults, repairs;
static char *guarded;
static size_t page;

static void jump_out(int sig) {
    last_signal = sig;
    faults++;
    siglongjmp(recover, sig);
}

static void repair(int sig, siginfo_t *info, void *context) {
    char *address = info->si_addr;
    (void)context;
    if (address < guarded || address >= guarded + 4 * page) jump_out(sig);
    repairs++;
    mprotect((char *)((unsigned long)address & ~(page - 1)), page, PROT_READ | PROT_WRITE);
}

static NOINLINE int read_at(volatile int *p, int a) { return *p + a; }
static NOINLINE int divide(int a, int b) { return a / b; }
static NOINLINE long divide_long(long a, long b) { return a % b; }
static NOINLINE void trap(void) { __asm__ volatile("ud2"); }

static NOINLINE int probe_null(int i) {
    volatile int kept = i * 3;
    int sig = sigsetjmp(recover, 1);
    if (sig == 0) {
        kept += 1;
        return read_at((volatile int *)(long)(i % 7 * 8), i);
    }
    return kept + sig;
}
static NOINLINE int probe_division(int a, int b) {
    if (sigsetjmp(recover, 1) == 0) return divide(a, b);
    return -1000 - last_signal;
}
static NOINLINE long probe_long(long a, long b) {
    if (sigsetjmp(recover, 1) == 0) return divide_long(a, b);
    return -1;
}
static NOINLINE int overflow_stack(int n) {
    volatile char pad[500];
    pad[n % 500] = 1;
    return overflow_stack(n + 1) + pad[n % 500];
}

int main(void) {
    page = (size_t)sysconf(_SC_PAGESIZE);
    static char alternate[65536];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, NULL);
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = jump_out;
    sa.sa_flags = SA_ONSTACK;
    sigaction(SIGFPE, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGSEGV, &sa, NULL);

    static long s; /* static: lives across siglongjmp */
    for (int i = 0; i < 300; i++) s = s * 3 + probe_null(i);
    printf("null %ld faults %d\n", s, (int)faults);
    printf("division %d %d %d\n", probe_division(10, 3), probe_division(10, 0), probe_division(INT_MIN, -1));
    printf("long %ld %ld %ld\n", probe_long(10, 3), probe_long(10, 0), probe_long(LONG_MIN, -1));
    if (sigsetjmp(recover, 1) == 0) trap();
    else printf("trap %d\n", (int)last_signal);

    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = 1 << 20;
    setrlimit(RLIMIT_STACK, &limit);
    if (sigsetjmp(recover, 1) == 0) printf("never %d\n", overflow_stack(0));
    else printf("overflow %d\n", (int)last_signal);

    sa.sa_sigaction = repair;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &sa, NULL);
    guarded = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 50; round++) {
        mprotect(guarded, 4 * page, PROT_NONE);
        for (unsigned i = 0; i < 4 * page; i += 512) guarded[i] = (char)(guarded[i] + (char)(i / 512 + 1));
        unsigned h = 0;
        mprotect(guarded, 4 * page, PROT_NONE);
        for (unsigned i = 0; i < 4 * page; i += 512) h = h * 31 + (unsigned char)guarded[i];
        s += h;
    }
    printf("repairs %d %ld\n", (int)repairs, s);
    return 0;
}

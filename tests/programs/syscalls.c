/* Covers: system calls in inline assembly (rcx and r11 clobbered by the processor), clock functions in the vDSO, raw clone
 *         with a stack of its own, mmap'd code generated at run time and called, getrandom, segment-relative accesses.
 * Expected: prints fixed results, exit 0.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE long raw(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "0"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
static NOINLINE long sum_pipe(int n) {
    int fd[2];
    if (raw(SYS_pipe, (long)fd, 0, 0)) return -1;
    long s = 0;
    for (int i = 0; i < n; i++) {
        char out[8], in[8] = {0};
        memset(out, i, sizeof out);
        if (raw(SYS_write, fd[1], (long)out, 8) != 8 || raw(SYS_read, fd[0], (long)in, 8) != 8) return -2;
        s = s * 3 + in[7];
    }
    raw(SYS_close, fd[0], 0, 0);
    raw(SYS_close, fd[1], 0, 0);
    return s;
}
static char stack[65536] __attribute__((aligned(16)));
static int shared_value;
static int cloned(void *p) { shared_value = *(int *)p * 2; return 17; }
static NOINLINE int monotonic(int n) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < n; i++) {
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec)) return 0;
        a = b;
    }
    return 1;
}
static NOINLINE int generated(int v) {
    static const unsigned char code[] = {0x8d, 0x04, 0x7f, 0x83, 0xc0, 0x05, 0xc3}; /* lea (%rdi,%rdi,2),%eax; add $5,%eax; ret */
    unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(p, code, sizeof code);
    mprotect(p, 4096, PROT_READ | PROT_EXEC);
    int s = 0;
    for (int i = 0; i < v; i++) s = s * 7 + ((int (*)(int))(uintptr_t)p)(i);
    munmap(p, 4096);
    return s;
}
static NOINLINE uint64_t fs_base(void) { uint64_t v, w; __asm__ volatile("movq %%fs:0, %0\n movq %%fs:(%1), %1" : "=&r"(v), "=r"(w) : "1"(0ul)); return v == w; }

int main(void) {
    printf("pid %d\n", raw(SYS_getpid, 0, 0, 0) == getpid());
    printf("error %ld %ld\n", raw(SYS_close, 9999, 0, 0), raw(99999, 0, 0, 0));
    printf("pipe %ld\n", sum_pipe(300));
    int value = 21, status = 0;
    fflush(stdout);
    int p = clone(cloned, stack + sizeof stack, CLONE_VM | SIGCHLD, &value);
    waitpid(p, &status, 0);
    printf("clone %d %d\n", WEXITSTATUS(status), shared_value);
    printf("monotonic %d time %d\n", monotonic(2000), time(NULL) > 1000000000);
    printf("generated %d\n", generated(50));
    printf("fs %lu\n", (unsigned long)fs_base());
    fflush(stdout);
    raw(SYS_write, 1, (long)"written\n", 8);
    raw(SYS_exit_group, 0, 0, 0);
    return 1;
}

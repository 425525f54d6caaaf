/* Covers: death by signal after real work: counters must survive, the exit status must be the signal's.
 * Expected: prints fixed results, dies by SIGSEGV.
 * exit: -11
 */
#include <stdio.h>
#include <sys/resource.h>

__attribute__((noinline)) static int work(int n) { unsigned s = 1; for (int i = 0; i < n; i++) s = s * 31 + (unsigned)i; return (int)(s >> 8); }
__attribute__((noinline)) static void die(volatile int *p) { *p = 5; }

int main(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    int s = 0;
    for (int i = 0; i < 100; i++) s += work(i);
    printf("work %d\n", s);
    fflush(stdout);
    die((volatile int *)16);
    puts("never");
    return 0;
}

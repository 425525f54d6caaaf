/* A tiny function called over and over; prints nanoseconds of processor time a call on standard error. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__attribute__((noinline)) unsigned tiny(unsigned x) { return x * 5 + (x >> 3); }

int main(int argc, char **argv) {
    unsigned long calls = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    unsigned x = 1;
    struct timespec from, to;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    for (unsigned long i = 0; i < calls; i++) x = tiny(x);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    printf("%u\n", x);
    fprintf(stderr, "%.4f\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / (double)calls);
    return 0;
}

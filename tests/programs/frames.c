/* Covers: variable-length arrays, alloca in loops, frames of hundreds of kilobytes (stack probing), over-aligned locals
 *         (`and $-64, %rsp`), leaf functions whose locals live in the red zone, frame-pointer and pushed-argument code.
 * Expected: prints fixed results, exit 0.
 */
#include <alloca.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE long vla(int n, int m) {
    long grid[n][m];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < m; j++) grid[i][j] = i * 7 + j;
    long s = 0;
    for (int j = 0; j < m; j++)
        for (int i = 0; i < n; i++) s = s * 5 + grid[i][j];
    return s;
}

static NOINLINE unsigned use(const unsigned char *p, int n) {
    unsigned h = 2166136261u;
    for (int i = 0; i < n; i++) h = (h ^ p[i]) * 16777619u;
    return h;
}

static NOINLINE unsigned alloca_loop(int n) {
    unsigned h = 0;
    for (int i = 1; i < n; i++) {
        unsigned char *p = alloca((size_t)i);
        memset(p, i, (size_t)i);
        h ^= use(p, i);
    }
    return h;
}

static NOINLINE unsigned vla_nested(int depth) {
    if (depth == 0) return 1;
    unsigned char buf[depth * 13];
    for (int i = 0; i < depth * 13; i++) buf[i] = (unsigned char)(i * depth);
    unsigned inner = vla_nested(depth - 1);
    return inner * 31 + use(buf, depth * 13);
}

static NOINLINE unsigned big_frame(unsigned seed) {
    unsigned char buf[300000];
    for (unsigned i = 0; i < sizeof buf; i += 101) { seed = seed * 1664525u + 1013904223u; buf[i] = (unsigned char)(seed >> 24); }
    unsigned s = 0;
    for (unsigned i = 0; i < sizeof buf; i += 101) s = s * 3 + buf[i];
    return s;
}

static NOINLINE unsigned aligned(unsigned seed) {
    _Alignas(64) unsigned v[32];
    _Alignas(128) unsigned w[8];
    for (int i = 0; i < 32; i++) v[i] = seed += 77;
    for (int i = 0; i < 8; i++) w[i] = v[i * 4] ^ v[i];
    unsigned r = use((unsigned char *)v, sizeof v) + use((unsigned char *)w, sizeof w);
    return r + (unsigned)((uintptr_t)v % 64) + (unsigned)((uintptr_t)w % 128);
}

static NOINLINE unsigned aligned_vla(int n) {
    _Alignas(32) unsigned char v[64];
    unsigned char w[n];
    memset(v, n, sizeof v);
    for (int i = 0; i < n; i++) w[i] = (unsigned char)(v[i % 64] + i);
    return use(w, n) + (unsigned)((uintptr_t)v % 32);
}

/* A leaf with many locals: they stay in the 128 bytes below rsp. */
static NOINLINE long red_zone(long a, long b) {
    volatile long x0 = a, x1 = b, x2 = a ^ b, x3 = a + b, x4 = a - b, x5 = a * 3, x6 = b * 5, x7 = a & b, x8 = a | b, x9 = ~a;
    volatile int y0 = (int)a, y1 = (int)b;
    for (int i = 0; i < 10; i++) {
        x0 += x9; x1 ^= x8; x2 -= x7; x3 += x6; x4 ^= x5; x5 += x4; x6 -= x3; x7 += x2; x8 ^= x1; x9 += x0;
        y0 += y1; y1 ^= y0;
    }
    return x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7 + x8 + x9 + y0 + y1;
}

static NOINLINE long red_zone_calls(long n) {
    long s = 0;
    for (long i = 0; i < n; i++) s ^= red_zone(i, s);
    return s;
}

static NOINLINE int pushes(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j) {
    return a - b + c - d + e - f + g - h + i * j;
}

int main(void) {
    printf("vla %ld %ld\n", vla(7, 5), vla(40, 30));
    printf("alloca %u\n", alloca_loop(60));
    printf("nested %u\n", vla_nested(25));
    printf("big %u %u\n", big_frame(1), big_frame(99));
    unsigned s = 0;
    for (int i = 0; i < 200; i++) s = s * 3 + aligned((unsigned)i) + aligned_vla(i + 1);
    printf("aligned %u\n", s);
    printf("red %ld\n", red_zone_calls(2000));
    int t = 0;
    for (int i = 0; i < 100; i++) t += pushes(i, 2, i, 4, i, 6, i, 8, i, 10);
    printf("pushes %d\n", t);
    return 0;
}

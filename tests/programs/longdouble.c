/* Covers: x87 arithmetic: long double functions, comparisons, conversions, control word (rounding), constants,
 *         transcendental inline assembly, complex long double.
 * Expected: prints fixed results, exit 0.
 */
#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE long double horner(const long double *c, int n, long double x) {
    long double r = 0;
    for (int i = 0; i < n; i++) r = r * x + c[i];
    return r;
}
static NOINLINE long double newton_sqrt(long double v) {
    long double x = v;
    for (int i = 0; i < 40; i++) x = (x + v / x) / 2;
    return x;
}
static NOINLINE int order(long double a, long double b) { return a < b ? -1 : a > b ? 1 : a == b ? 0 : 2; }
static NOINLINE long to_long(long double v) { return (long)v; }
static NOINLINE unsigned long to_ulong(long double v) { return (unsigned long)v; }
static NOINLINE int to_int(long double v) { return (int)v; }
static NOINLINE short to_short(long double v) { return (short)v; }
static NOINLINE long double from_ulong(unsigned long v) { return (long double)v; }
static NOINLINE float to_float(long double v) { return (float)v; }
static NOINLINE long double pick(int c, long double a, long double b) { return c ? a : b; }
static NOINLINE long double sum8(long double a, long double b, long double c, long double d, long double e, long double f, long double g, long double h) {
    return ((a + b) * (c - d)) / ((e + f) * (g - h));
}
static NOINLINE long double series(int n) {
    long double s = 0;
    for (int i = 1; i <= n; i++) s += (i & 1 ? 1.0L : -1.0L) / i;
    return s;
}
static NOINLINE double asm_sine(double v) {
    double r;
    __asm__("fldl %1; fsin; fstpl %0" : "=m"(r) : "m"(v) : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    return r;
}
static NOINLINE long asm_round(double v, uint16_t mode) {
    uint16_t old, next;
    long r;
    __asm__ volatile("fnstcw %0" : "=m"(old));
    next = (uint16_t)((old & ~0xc00) | mode);
    __asm__ volatile("fldcw %2; fldl %1; fistpll %0; fldcw %3" : "=m"(r) : "m"(v), "m"(next), "m"(old) : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    return r;
}
static NOINLINE long double complex cmul(long double complex a, long double complex b) { return a * b; }

int main(void) {
    static const long double c[] = {1.0L / 120, 1.0L / 24, 1.0L / 6, 0.5L, 1, 1};
    printf("horner %.18Lf\n", horner(c, 6, 0.75L));
    for (int i = 1; i < 6; i++) printf("%.17Lf ", newton_sqrt(i * 1.5L));
    printf("\norder %d %d %d %d\n", order(1, 2), order(2, 1), order(2, 2), order(__builtin_nanl(""), 2));
    printf("convert %ld %lu %d %d %.4Lf %.6f\n", to_long(-3.99L), to_ulong(1.5e19L), to_int(77.9L), to_short(-300.5L), from_ulong(~0ul), to_float(1.1L));
    printf("pick %.3Lf %.3Lf\n", pick(1, 2.5L, 3.5L), pick(0, 2.5L, 3.5L));
    printf("sum %.15Lf\n", sum8(1, 2, 3, 4, 5, 6, 7, 9));
    printf("series %.15Lf\n", series(5000));
    printf("sine %.12f %.12f\n", asm_sine(1.0), asm_sine(-0.5));
    printf("round %ld %ld %ld %ld\n", asm_round(2.5, 0), asm_round(2.5, 0x400), asm_round(2.5, 0x800), asm_round(-2.5, 0xc00));
    long double complex z = 1, w = 0.6L + 0.8L * I;
    for (int i = 0; i < 50; i++) z = cmul(z, w);
    printf("complex %.15Lf %.15Lf\n", creall(z), cimagl(z));
    printf("abs %.3Lf %.3f %d\n", __builtin_fabsl(-2.5L), fabs(-1.5), __builtin_signbit(-0.0L) != 0);
    return 0;
}

/* Covers: scalar SSE arithmetic in float and double, rounding modes (MXCSR) set by fesetround, sticky exception flags,
 *         NaN, infinity, denormals, signed zero, conversions out of range (0x8000...), comparisons with unordered results,
 *         flush-to-zero, libm calls, floats kept in callee-clobbered vector registers over branches.
 * Expected: prints fixed results, exit 0.
 * flags: -frounding-math
 */
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <xmmintrin.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE double fma_chain(double a, double b, int n) { for (int i = 0; i < n; i++) { a = a * b + 1.25; b = b * 0.999 - a / 1e6; } return a + b; }
static NOINLINE float fchain(float a, float b, int n) { for (int i = 0; i < n; i++) { a = a * b + 1.25f; b = b * 0.999f - a / 1e6f; } return a + b; }
static NOINLINE int compare(double a, double b) { return (a < b) + 2 * (a <= b) + 4 * (a == b) + 8 * (a != b) + 16 * (a > b) + 32 * (a >= b) + 64 * !(a < b) + 128 * !(a >= b) + 256 * (isunordered(a, b) != 0); }
static NOINLINE int branch(float a, float b) { if (a > b) return 1; if (a < b) return 2; if (a == b) return 3; return 4; }
static NOINLINE double divide(double a, double b) { return a / b; }
static NOINLINE float add(float a, float b) { return a + b; }
static NOINLINE int32_t to32(double v) { return (int32_t)v; }
static NOINLINE int64_t to64(double v) { return (int64_t)v; }
static NOINLINE uint64_t tou64(double v) { return (uint64_t)v; }
static NOINLINE double of64(uint64_t v) { return (double)v; }
static NOINLINE float off32(uint32_t v) { return (float)v; }
static NOINLINE float narrow(double v) { return (float)v; }
static NOINLINE double minimum(double a, double b) { return a < b ? a : b; }
static NOINLINE double maximum(double a, double b) { return a > b ? a : b; }
static NOINLINE double magnitude(double a) { return copysign(fabs(a), -1.0) + sqrt(fabs(a)); }
static NOINLINE uint64_t raw(double d) { uint64_t u; memcpy(&u, &d, 8); return u; }
static NOINLINE uint32_t rawf(float d) { uint32_t u; memcpy(&u, &d, 4); return u; }
static NOINLINE double poly(const double *c, int n, double x) { double r = 0; for (int i = 0; i < n; i++) r = r * x + c[i]; return r; }
static NOINLINE double select_many(int k, double a, double b, double c, double d, double e, double f, double g, double h) {
    switch (k & 7) { case 0: return a; case 1: return b + a; case 2: return c * b; case 3: return d - c; case 4: return e / d; case 5: return f + e; case 6: return g * f; default: return h - g; }
}
static NOINLINE double simpson(double (*f)(double), double a, double b, int n) {
    double h = (b - a) / n, s = f(a) + f(b);
    for (int i = 1; i < n; i++) s += f(a + i * h) * (i & 1 ? 4 : 2);
    return s * h / 3;
}
static NOINLINE int mandelbrot(double cr, double ci) { double x = 0, y = 0; int n = 0; while (x * x + y * y <= 4 && n < 200) { double t = x * x - y * y + cr; y = 2 * x * y + ci; x = t; n++; } return n; }

int main(void) {
    static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (int i = 0; i < 4; i++) {
        fesetround(modes[i]);
        printf("mode %d %016lx %08x %016lx %ld %08x\n", i, (unsigned long)raw(fma_chain(0.1, 0.7, 50)), rawf(fchain(0.1f, 0.7f, 50)), (unsigned long)raw(divide(1, 3)), lrint(2.5), rawf(narrow(0.1)));
    }
    fesetround(FE_TONEAREST);
    volatile double zero = 0, big = DBL_MAX, tiny = DBL_MIN, nan = NAN, inf = INFINITY;
    feclearexcept(FE_ALL_EXCEPT);
    volatile double r = divide(1, zero);
    int flags = fetestexcept(FE_DIVBYZERO) != 0;
    r = divide(zero, zero);
    flags = flags * 2 + (fetestexcept(FE_INVALID) != 0);
    r = big * 2;
    flags = flags * 2 + (fetestexcept(FE_OVERFLOW) != 0);
    r = tiny / 3;
    flags = flags * 2 + (fetestexcept(FE_UNDERFLOW) != 0);
    feclearexcept(FE_ALL_EXCEPT);
    r = divide(1, 2);
    flags = flags * 2 + (fetestexcept(FE_INEXACT) != 0);
    r = divide(1, 3);
    flags = flags * 2 + (fetestexcept(FE_INEXACT) != 0);
    printf("flags %d %016lx\n", flags, (unsigned long)raw(r));
    const double values[] = {0.0, -0.0, 1.0, -1.5, nan, inf, -inf, 5e-324, 1e308};
    long h = 0;
    for (int i = 0; i < 9; i++)
        for (int j = 0; j < 9; j++) {
            h = h * 31 + compare(values[i], values[j]) + branch((float)values[i], (float)values[j]);
            if (i != 4 && j != 4) h = h * 31 + (long)(raw(minimum(values[i], values[j])) >> 52) + (long)(raw(maximum(values[i], values[j])) >> 40);
        }
    printf("compare %ld\n", h);
    printf("convert %d %d %ld %ld %lu %lu\n", to32(-7.9), to32(1e10), (long)to64(1e17), (long)to64(nan), (unsigned long)tou64(1e19), (unsigned long)tou64(3.7));
    printf("convert %016lx %08x %.3f\n", (unsigned long)raw(of64(0xfffffffffffffbfful)), rawf(off32(0xfffffeffu)), magnitude(-2.25));
    unsigned old = _mm_getcsr();
    volatile float denormal = 1e-40f;
    float before = add(denormal, denormal);
    _mm_setcsr(old | 0x8040);
    float after = add(denormal, denormal);
    _mm_setcsr(old);
    printf("ftz %08x %08x\n", rawf(before), rawf(after));
    double s = 0;
    static const double c[] = {1, -2, 3, -4, 5};
    for (int i = 0; i < 2000; i++) s = s * 0.5 + select_many(i, 1.5, s, 2.5, i, 3.5, s + 1, 4.5, i * 2) + poly(c, 5, i / 1000.0);
    printf("select %.12g\n", s);
    printf("integrals %.10f %.10f %.10f\n", simpson(sin, 0, 3, 200), simpson(exp, 0, 1, 100), simpson(log1p, 0, 2, 100));
    int m = 0;
    for (int i = 0; i < 40; i++) for (int j = 0; j < 40; j++) m += mandelbrot(-2 + i * 0.075, -1.5 + j * 0.075);
    printf("mandelbrot %d\n", m);
    return 0;
}

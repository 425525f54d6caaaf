/* Covers: function pointers and tables of them, structures returned in registers (integer, float, mixed) and by
 *         hidden pointer, structures by value, more than six integer and eight float arguments, callbacks, bools.
 * Expected: prints fixed results, exit 0.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

typedef struct { int x, y; } two_ints;
typedef struct { long a, b; } two_longs;
typedef struct { double re, im; } two_doubles;
typedef struct { float a, b, c; } three_floats;
typedef struct { double d; long l; } double_long;
typedef struct { long l; double d; } long_double_pair;
typedef struct { char c[3]; } three_chars;
typedef struct { char c[17]; } seventeen;
typedef struct { long v[9]; } nine;
typedef struct { long double l; } one_ld;
typedef union { double d; uint64_t u; } bits;

static NOINLINE two_ints make_ints(int x, int y) { return (two_ints){x - y, x + y}; }
static NOINLINE two_longs make_longs(long a, long b) { return (two_longs){a * b, a - b}; }
static NOINLINE two_doubles complex_mul(two_doubles a, two_doubles b) {
    return (two_doubles){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
static NOINLINE three_floats scale(three_floats v, float k) { return (three_floats){v.a * k, v.b * k, v.c * k}; }
static NOINLINE double_long dl(double d, long l) { return (double_long){d * 2, l * 2}; }
static NOINLINE long_double_pair ld(long l, double d) { return (long_double_pair){l + 1, d + 1}; }
static NOINLINE three_chars chars(char a) { return (three_chars){{a, (char)(a + 1), (char)(a + 2)}}; }
static NOINLINE seventeen fill17(int seed) {
    seventeen s;
    for (int i = 0; i < 17; i++) s.c[i] = (char)(seed + i * 3);
    return s;
}
static NOINLINE nine fill9(nine in, long k) {
    nine out;
    for (int i = 0; i < 9; i++) out.v[i] = in.v[8 - i] * k + i;
    return out;
}
static NOINLINE one_ld ldouble(double d) { return (one_ld){(long double)d / 3}; }
static NOINLINE bits as_bits(double d) { return (bits){.d = d}; }

static NOINLINE long many(int a, short b, char c, long d, unsigned e, int f, int g, long h, char i, short j, two_longs k, nine n) {
    return a + 2L * b + 3L * c + 4 * d + 5L * e + 6L * f + 7L * g + 8 * h + 9L * i + 10L * j + k.a - k.b + n.v[4];
}
static NOINLINE double many_floats(double a, float b, double c, float d, double e, float f, double g, float h, double i, float j, int k) {
    return a + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7 + h * 8 + i * 9 + j * 10 + k;
}

static long op_add(long a, long b) { return a + b; }
static long op_sub(long a, long b) { return a - b; }
static long op_mul(long a, long b) { return a * b; }
static long op_xor(long a, long b) { return a ^ b; }
static long op_shl(long a, long b) { return (long)((unsigned long)a << (b & 7)); }
static long (*const table[])(long, long) = {op_add, op_sub, op_mul, op_xor, op_shl};

typedef long (*visitor)(void *state, int value);
static NOINLINE long each(const int *v, int n, visitor f, void *state) {
    long r = 0;
    for (int i = 0; i < n; i++) r += f(state, v[i]);
    return r;
}
static long count_even(void *state, int v) { (*(int *)state)++; return (v & 1) == 0; }
static long polynomial(void *state, int v) { long *s = state; *s = *s * 17 + v; return *s & 0xff; }

static NOINLINE bool both(bool a, bool b) { return a && b; }
static NOINLINE signed char narrow(int v) { return (signed char)v; }
static NOINLINE unsigned short wrap(unsigned v) { return (unsigned short)(v * 7); }

typedef int (*self)(int, void *);
static NOINLINE int again(int n, void *f) { return n == 0 ? 100 : 1 + ((self)f)(n - 1, f); }

struct shape;
struct ops { double (*area)(const struct shape *); const char *(*name)(void); };
struct shape { const struct ops *ops; double w, h; };
static double rect_area(const struct shape *s) { return s->w * s->h; }
static const char *rect_name(void) { return "rect"; }
static double tri_area(const struct shape *s) { return s->w * s->h / 2; }
static const char *tri_name(void) { return "tri"; }
static const struct ops rect = {rect_area, rect_name}, tri = {tri_area, tri_name};

int main(void) {
    long hash = 1;
    for (int i = 0; i < 3000; i++) {
        two_ints p = make_ints(i, 3);
        two_longs q = make_longs(p.x, p.y);
        seventeen s = fill17(i);
        nine n = {{i, 2, 3, 4, 5, 6, 7, 8, 9}};
        n = fill9(n, q.b);
        hash = hash * 31 + p.x + q.a + s.c[16] + n.v[8] + many(i, 2, 'c', 4, 5, 6, 7, 8, 9, 10, q, n);
        hash = table[i % 5](hash, i);
    }
    printf("hash %ld\n", hash);
    two_doubles z = {1, 0}, w = {0.6, 0.8};
    for (int i = 0; i < 100; i++) z = complex_mul(z, w);
    printf("complex %.9f %.9f\n", z.re, z.im);
    three_floats f = {1, 2, 3};
    for (int i = 0; i < 10; i++) f = scale(f, 1.5f);
    printf("floats %.4f %.4f %.4f\n", f.a, f.b, f.c);
    double_long a = dl(1.25, 7);
    long_double_pair b = ld(9, 2.5);
    printf("pairs %.2f %ld %ld %.2f\n", a.d, a.l, b.l, b.d);
    three_chars c = chars('x');
    printf("chars %c%c%c\n", c.c[0], c.c[1], c.c[2]);
    printf("ld %.12Lf bits %llx\n", ldouble(10).l, (unsigned long long)as_bits(-0.5).u);
    printf("many %.3f\n", many_floats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
    int v[50], state = 0;
    long poly = 3;
    for (int i = 0; i < 50; i++) v[i] = i * i - 40;
    long even = each(v, 50, count_even, &state), sum = each(v, 50, polynomial, &poly);
    printf("each %ld %d %ld %ld\n", even, state, sum, poly);
    printf("narrow %d %u %d %d\n", narrow(300), wrap(60000), both(true, false), both(true, true));
    printf("again %d\n", again(20, (void *)again));
    struct shape shapes[] = {{&rect, 2, 3}, {&tri, 4, 5}, {&rect, 6, 7}};
    for (int i = 0; i < 3; i++) printf("%s %.1f\n", shapes[i].ops->name(), shapes[i].ops->area(&shapes[i]));
    return 0;
}

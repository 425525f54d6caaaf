/* Covers: 128-bit arithmetic: add/sub with carry, multiplication, division, shifts by variable amounts, comparison,
 *         conversion, modular exponentiation, 128-bit arguments and results, multi-word addition with __builtin carries.
 * Expected: prints fixed results, exit 0.
 */
#include <stdint.h>
#include <stdio.h>

#define NOINLINE __attribute__((noinline))
typedef unsigned __int128 u128;
typedef __int128 i128;

static NOINLINE u128 mul_add(u128 a, u128 b, u128 c) { return a * b + c; }
static NOINLINE u128 divide(u128 a, u128 b) { return a / b; }
static NOINLINE i128 remainder_of(i128 a, i128 b) { return a % b; }
static NOINLINE u128 shl(u128 a, unsigned n) { return a << (n & 127); }
static NOINLINE u128 shr(u128 a, unsigned n) { return a >> (n & 127); }
static NOINLINE i128 sar(i128 a, unsigned n) { return a >> (n & 127); }
static NOINLINE int order(i128 a, i128 b) { return a < b ? -1 : a > b; }
static NOINLINE int uorder(u128 a, u128 b) { return a <= b ? -1 : 1; }
static NOINLINE double to_double(u128 a) { return (double)a; }
static NOINLINE u128 from_double(double d) { return (u128)d; }
static NOINLINE uint64_t mulmod(uint64_t a, uint64_t b, uint64_t m) { return (uint64_t)((u128)a * b % m); }
static NOINLINE uint64_t powmod(uint64_t b, uint64_t e, uint64_t m) {
    uint64_t r = 1;
    for (; e; e >>= 1, b = mulmod(b, b, m)) if (e & 1) r = mulmod(r, b, m);
    return r;
}
static NOINLINE int is_prime(uint64_t n) {
    static const uint64_t bases[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
    if (n < 2) return 0;
    for (int i = 0; i < 12; i++) if (n % bases[i] == 0) return n == bases[i];
    uint64_t d = n - 1;
    int s = 0;
    while (!(d & 1)) { d >>= 1; s++; }
    for (int i = 0; i < 12; i++) {
        uint64_t x = powmod(bases[i], d, n);
        if (x == 1 || x == n - 1) continue;
        int r;
        for (r = 1; r < s; r++) { x = mulmod(x, x, n); if (x == n - 1) break; }
        if (r == s) return 0;
    }
    return 1;
}
static NOINLINE uint64_t add_words(uint64_t *r, const uint64_t *a, const uint64_t *b, int n) {
    unsigned long long carry = 0;
    for (int i = 0; i < n; i++) {
        unsigned long long s, t;
        unsigned long long c1 = (unsigned long long)__builtin_uaddll_overflow(a[i], b[i], &s);
        unsigned long long c2 = (unsigned long long)__builtin_uaddll_overflow(s, carry, &t);
        r[i] = t;
        carry = c1 | c2;
    }
    return carry;
}
static NOINLINE void mul_words(uint64_t *r, const uint64_t *a, const uint64_t *b, int n) {
    for (int i = 0; i < 2 * n; i++) r[i] = 0;
    for (int i = 0; i < n; i++) {
        u128 c = 0;
        for (int j = 0; j < n; j++) { c += (u128)a[i] * b[j] + r[i + j]; r[i + j] = (uint64_t)c; c >>= 64; }
        r[i + n] = (uint64_t)c;
    }
}
static NOINLINE i128 i128_abs_diff(i128 a, i128 b) { i128 d = a - b; return d < 0 ? -d : d; }
static NOINLINE int checked(i128 a, i128 b, i128 *r) { return __builtin_mul_overflow(a, b, r); }

static void show(const char *name, u128 v) {
    char t[50];
    int n = 0;
    do { t[n++] = (char)('0' + (int)(v % 10)); v /= 10; } while (v);
    printf("%s ", name);
    while (n) putchar(t[--n]);
    putchar('\n');
}

int main(void) {
    u128 a = 1;
    for (int i = 1; i < 33; i++) a = mul_add(a, (u128)i, 7);
    show("factorial", a);
    show("divide", divide(a, 1234567890123456789ul));
    show("divide128", divide(a, (u128)1 << 70 | 12345));
    i128 n = -(i128)a;
    printf("remainder %ld\n", (long)remainder_of(n, 1000003));
    u128 h = 0;
    for (unsigned i = 0; i < 256; i++) h = h * 31 + shl(a, i) + shr(a, i * 3) + (u128)sar(n, i * 5);
    show("shifts", h);
    printf("order %d %d %d %d\n", order(n, 0), order((i128)a, n), uorder(a, h), order(5, 5));
    printf("double %.6e\n", to_double(a));
    show("from", from_double(1e30));
    int primes = 0;
    for (uint64_t i = 1000000007ul; i < 1000000007ul + 400; i += 2) primes += is_prime(i);
    printf("primes %d %d %d\n", primes, is_prime(18446744073709551557ul), is_prime(18446744073709551559ul));
    uint64_t x[6], y[6], z[12], carry = 0;
    for (int i = 0; i < 6; i++) { x[i] = ~0ul - (uint64_t)i; y[i] = (uint64_t)i * 0x9e3779b97f4a7c15ul + 1; }
    for (int i = 0; i < 100; i++) { carry += add_words(x, x, y, 6); carry += add_words(y, y, x, 6); }
    mul_words(z, x, y, 6);
    printf("words %lu %016lx %016lx %016lx\n", (unsigned long)carry, (unsigned long)z[0], (unsigned long)z[6], (unsigned long)z[11]);
    show("diff", (u128)i128_abs_diff(n, 12345));
    i128 r;
    int overflows = 0;
    for (int i = 0; i < 120; i++) overflows += checked((i128)1 << i, ((i128)3 << (i / 2)) + i, &r);
    printf("overflows %d\n", overflows);
    return 0;
}

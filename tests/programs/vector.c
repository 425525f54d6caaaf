/* Covers: loops that compilers vectorise at -O3 (float, double, int8..int64, reductions, min/max, conditional stores,
 *         conversions, strided), SSE2 intrinsics, GCC vector extensions, AVX2 and AVX-512 by function multiversion with
 *         run-time dispatch where the processor has them (same results either way).
 * Expected: prints fixed results, exit 0.
 */
#include <emmintrin.h>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))
#define N 1027

static float fa[N], fb[N], fc[N];
static double da[N], db[N], dc[N];
static int32_t ia[N], ib[N], ic[N];
static uint8_t ba[N], bb[N], bc[N];
static int16_t sa[N], sb[N], sc[N];
static uint64_t la[N], lb[N], lc[N];

static NOINLINE void saxpy(float *restrict y, const float *restrict x, float k, int n) { for (int i = 0; i < n; i++) y[i] = y[i] + k * x[i]; }
static NOINLINE double dot(const double *a, const double *b, int n) { double s = 0; for (int i = 0; i < n; i++) s += a[i] * b[i]; return s; }
static NOINLINE long isum(const int32_t *a, int n) { long s = 0; for (int i = 0; i < n; i++) s += a[i]; return s; }
static NOINLINE int imax(const int32_t *a, int n) { int m = a[0]; for (int i = 1; i < n; i++) m = a[i] > m ? a[i] : m; return m; }
static NOINLINE void clampi(int32_t *restrict c, const int32_t *restrict a, int n) { for (int i = 0; i < n; i++) c[i] = a[i] > 1000 ? 1000 : a[i] < -1000 ? -1000 : a[i]; }
static NOINLINE void blend(uint8_t *restrict c, const uint8_t *restrict a, const uint8_t *restrict b, int n) { for (int i = 0; i < n; i++) c[i] = (uint8_t)((a[i] * 3 + b[i] * 5) >> 3); }
static NOINLINE void saturate(int16_t *restrict c, const int16_t *restrict a, const int16_t *restrict b, int n) { for (int i = 0; i < n; i++) { int v = a[i] + b[i]; c[i] = (int16_t)(v > 32767 ? 32767 : v < -32768 ? -32768 : v); } }
static NOINLINE void mul64(uint64_t *restrict c, const uint64_t *restrict a, const uint64_t *restrict b, int n) { for (int i = 0; i < n; i++) c[i] = a[i] * b[i] + (c[i] >> 3); }
static NOINLINE void convert(float *restrict f, double *restrict d, const int32_t *restrict a, int n) { for (int i = 0; i < n; i++) { f[i] = (float)a[i] * 0.5f; d[i] = (double)a[i] / 3; } }
static NOINLINE void toint(int32_t *restrict c, const float *restrict a, int n) { for (int i = 0; i < n; i++) c[i] = (int32_t)a[i]; }
static NOINLINE int count(const uint8_t *a, int n, uint8_t v) { int c = 0; for (int i = 0; i < n; i++) c += a[i] == v; return c; }
static NOINLINE void roots(double *restrict c, const double *restrict a, int n) { for (int i = 0; i < n; i++) c[i] = __builtin_sqrt(a[i] + 1); }
static NOINLINE void cond(float *restrict c, const float *restrict a, int n) { for (int i = 0; i < n; i++) if (a[i] > 0.5f) c[i] = -a[i]; }
static NOINLINE void reverse(int32_t *restrict c, const int32_t *restrict a, int n) { for (int i = 0; i < n; i++) c[i] = a[n - 1 - i]; }
static NOINLINE void stride(int32_t *restrict c, const int32_t *restrict a, int n) { for (int i = 0; i < n / 3; i++) c[i] = a[3 * i] + a[3 * i + 1] - a[3 * i + 2]; }
static NOINLINE void shift(int32_t *restrict c, const int32_t *restrict a, const int32_t *restrict b, int n) { for (int i = 0; i < n; i++) c[i] = (int32_t)((uint32_t)a[i] << (b[i] & 15)) ^ (a[i] >> 3); }
static NOINLINE void matmul(float *c, const float *a, const float *b, int n) {
    for (int i = 0; i < n; i++) for (int j = 0; j < n; j++) { float s = 0; for (int k = 0; k < n; k++) s += a[i * n + k] * b[k * n + j]; c[i * n + j] = s; }
}
static NOINLINE void prefix(int32_t *a, int n) { for (int i = 1; i < n; i++) a[i] += a[i - 1]; }
static NOINLINE unsigned adler(const uint8_t *p, int n) { unsigned a = 1, b = 0; for (int i = 0; i < n; i++) { a += p[i]; b += a; } return (b % 65521) << 16 | (a % 65521); }

static NOINLINE int sse_sum(const int32_t *a, int n) {
    __m128i s = _mm_setzero_si128();
    for (int i = 0; i + 4 <= n; i += 4) s = _mm_add_epi32(s, _mm_loadu_si128((const __m128i *)(a + i)));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}
static NOINLINE int find_byte(const uint8_t *p, int n, uint8_t v) {
    __m128i w = _mm_set1_epi8((char)v);
    for (int i = 0; i + 16 <= n; i += 16) {
        unsigned m = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(w, _mm_loadu_si128((const __m128i *)(p + i))));
        if (m) return i + __builtin_ctz(m);
    }
    return -1;
}
typedef int v4 __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
static NOINLINE v4 mix(v4 a, v4 b) { v4 c = a > b; return (a & c) | (b & ~c) | (a ^ b) >> 3; }
static NOINLINE v2d spin(v2d a) { v2d k = {0.5, -0.25}; return a * k + (v2d){1, 2}; }

__attribute__((target("avx2,fma"))) static NOINLINE long avx2_sum(const int32_t *a, int n) {
    __m256i s = _mm256_setzero_si256();
    for (int i = 0; i + 8 <= n; i += 8) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(a + i));
        s = _mm256_add_epi64(s, _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1))));
    }
    int64_t t[4];
    _mm256_storeu_si256((__m256i *)t, s);
    long r = t[0] + t[1] + t[2] + t[3];
    for (int i = n & ~7; i < n; i++) r += a[i];
    return r;
}
__attribute__((target("avx512f"))) static NOINLINE long avx512_sum(const int32_t *a, int n) {
    __m512i s = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 8) {
        __mmask8 k = (__mmask8)(n - i >= 8 ? 0xff : (1 << (n - i)) - 1);
        int32_t t[8] = {0};
        memcpy(t, a + i, sizeof *t * (size_t)(n - i >= 8 ? 8 : n - i));
        s = _mm512_mask_add_epi64(s, k, s, _mm512_cvtepi32_epi64(_mm256_loadu_si256((const __m256i *)t)));
    }
    int64_t t[8];
    _mm512_storeu_si512(t, s);
    return t[0] + t[1] + t[2] + t[3] + t[4] + t[5] + t[6] + t[7];
}

static unsigned long hash(const void *p, size_t n) {
    const unsigned char *b = p;
    unsigned long h = 1469598103934665603ul;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 1099511628211ul;
    return h;
}

int main(void) {
    uint32_t x = 1;
    for (int i = 0; i < N; i++) {
        x = x * 1664525u + 1013904223u;
        ia[i] = (int32_t)(x >> 12) - 400000; ib[i] = (int32_t)(x >> 20); ba[i] = (uint8_t)(x >> 24); bb[i] = (uint8_t)(x >> 16);
        sa[i] = (int16_t)(x >> 16); sb[i] = (int16_t)(x >> 15); la[i] = x * 0x9e3779b97f4a7c15ul; lb[i] = x;
        fa[i] = (float)(x >> 8) / 16777216; fb[i] = (float)i; da[i] = i * 0.25; db[i] = x / 4294967296.0;
    }
    for (int n = N - 9; n <= N; n++) {
        saxpy(fb, fa, 1.5f, n); clampi(ic, ia, n); blend(bc, ba, bb, n); saturate(sc, sa, sb, n); mul64(lc, la, lb, n);
        convert(fc, dc, ib, n); cond(fc, fa, n); reverse(ic, ia, n); stride(ic + 300, ia, n); shift(ic, ia, ib, n);
    }
    printf("saxpy %016lx blend %016lx\n", hash(fb, sizeof fb), hash(bc, sizeof bc));
    printf("saturate %016lx mul %016lx\n", hash(sc, sizeof sc), hash(lc, sizeof lc));
    printf("convert %016lx %016lx int %016lx\n", hash(fc, sizeof fc), hash(dc, sizeof dc), hash(ic, sizeof ic));
    toint(ic, fb, N); roots(dc, da, N);
    printf("toint %016lx roots %016lx\n", hash(ic, sizeof ic), hash(dc, sizeof dc));
    printf("dot %.9f isum %ld max %d count %d\n", dot(da, db, N), isum(ia, N), imax(ia, N), count(ba, N, 77));
    matmul(fc, fa, fb, 32); prefix(ib, N);
    printf("matmul %016lx prefix %016lx adler %x\n", hash(fc, sizeof fc), hash(ib, sizeof ib), adler(ba, N));
    printf("sse %d find %d %d\n", sse_sum(ia, N), find_byte(ba, N, 200), find_byte(ba, 64, 0));
    v4 v = {1, -2, 3, -4};
    v2d d = {1, 1};
    for (int i = 0; i < 100; i++) { v = mix(v, (v4){i, -i, i * 3, 7}) + 1; d = spin(d); }
    printf("v4 %d %d %d %d v2d %.6f %.6f\n", v[0], v[1], v[2], v[3], d[0], d[1]);
    __builtin_cpu_init();
    printf("avx2 %ld\n", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2_sum(ia, N) : isum(ia, N));
    printf("avx512 %ld\n", __builtin_cpu_supports("avx512f") ? avx512_sum(ia, N) : isum(ia, N));
    return 0;
}

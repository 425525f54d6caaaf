/* Covers: bit manipulation through compiler builtins: bsf/bsr/tzcnt, popcount, rotates of all widths, byte swaps, parity,
 *         carry and overflow builtins, shifts by variable amounts, sign and zero extension of every width, bit tests
 *         and sets, 8/16-bit division and multiplication.
 * Expected: prints fixed results, exit 0.
 */
#include <stdint.h>
#include <stdio.h>

#define NOINLINE __attribute__((noinline))
static uint64_t state = 88172645463325252ul;
static NOINLINE uint64_t next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state; }

static NOINLINE int counts(uint64_t v) { return __builtin_popcountl(v) * 1000 + (v ? __builtin_ctzl(v) * 100 + __builtin_clzl(v) : 9) + __builtin_parityl(v) + __builtin_ffsl((long)v); }
static NOINLINE int counts32(uint32_t v) { return __builtin_popcount(v) * 1000 + (v ? __builtin_ctz(v) * 100 + __builtin_clz(v) : 9) + __builtin_ffs((int)v); }
static NOINLINE uint64_t rotl64(uint64_t v, int n) { return v << (n & 63) | v >> (-n & 63); }
static NOINLINE uint32_t rotr32(uint32_t v, int n) { return v >> (n & 31) | v << (-n & 31); }
static NOINLINE uint16_t rotl16(uint16_t v, int n) { return (uint16_t)(v << (n & 15) | v >> (-n & 15)); }
static NOINLINE uint8_t rotl8(uint8_t v, int n) { return (uint8_t)(v << (n & 7) | v >> (-n & 7)); }
static NOINLINE uint64_t rotl_const(uint64_t v) { return (v << 13 | v >> 51) ^ (v << 1 | v >> 63) ^ (v << 63 | v >> 1); }
static NOINLINE uint64_t swaps(uint64_t v) { return __builtin_bswap64(v) ^ __builtin_bswap32((uint32_t)v) ^ __builtin_bswap16((uint16_t)v); }
static NOINLINE int64_t extend(uint64_t v) { return (int8_t)v + (int16_t)(v >> 8) + (int32_t)(v >> 16) + (uint8_t)(v >> 24) + (uint16_t)(v >> 32) + (int64_t)(uint32_t)(v >> 9); }
static NOINLINE uint64_t shifts(uint64_t v, unsigned n) { return (v << (n & 63)) + (v >> (n & 31)) + (uint64_t)((int64_t)v >> (n & 15)) + ((uint32_t)v << (n & 31)) + (uint64_t)((int32_t)v >> (n & 7)); }
static NOINLINE uint64_t double_shift(uint64_t a, uint64_t b, int n) { return (n & 63) ? a << (n & 63) | b >> (64 - (n & 63)) : a; }
static NOINLINE int bit_ops(uint64_t *v, unsigned n) { int was = (int)(*v >> (n & 63) & 1); if (n & 64) *v |= 1ul << (n & 63); else if (n & 128) *v &= ~(1ul << (n & 63)); else *v ^= 1ul << (n & 63); return was; }
static NOINLINE int div8(uint8_t a, uint8_t b) { return a / b * 256 + a % b; }
static NOINLINE int sdiv8(int8_t a, int8_t b) { return a / b * 256 + a % b; }
static NOINLINE int div16(uint16_t a, uint16_t b) { return a / b + a % b * 3; }
static NOINLINE int64_t sdiv64(int64_t a, int64_t b) { return a / b ^ a % b; }
static NOINLINE uint64_t div_const(uint64_t v) { return v / 7 + v % 10 + v / 1000003 + (uint64_t)((int64_t)v / 13) + (uint64_t)((int64_t)v % 8) + (uint32_t)v / 641; }
static NOINLINE int overflow(int64_t a, int64_t b) { int64_t r; int32_t s; unsigned u; unsigned char c; return __builtin_add_overflow(a, b, &r) + 2 * __builtin_mul_overflow(a, b, &r) + 4 * __builtin_sub_overflow((int32_t)a, (int32_t)b, &s) + 8 * __builtin_add_overflow((unsigned)a, (unsigned)b, &u) + 16 * __builtin_mul_overflow((unsigned char)a, (unsigned char)b, &c) + (int)(r & 3) + (int)(s & 7) + (int)(u & 3) + c; }
static NOINLINE uint64_t mulhi(uint64_t a, uint64_t b) { return (uint64_t)(((unsigned __int128)a * b) >> 64); }
static NOINLINE int64_t smulhi(int64_t a, int64_t b) { return (int64_t)(((__int128)a * b) >> 64); }
static NOINLINE uint64_t interleave(uint32_t x, uint32_t y) { uint64_t r = 0; for (int i = 0; i < 32; i++) r |= (uint64_t)(x >> i & 1) << (2 * i) | (uint64_t)(y >> i & 1) << (2 * i + 1); return r; }
static NOINLINE uint32_t reverse(uint32_t v) { v = (v >> 1 & 0x55555555) | (v & 0x55555555) << 1; v = (v >> 2 & 0x33333333) | (v & 0x33333333) << 2; v = (v >> 4 & 0x0f0f0f0f) | (v & 0x0f0f0f0f) << 4; return __builtin_bswap32(v); }
static NOINLINE int ranges(int64_t v) { return (v >= -5 && v < 17) + 2 * (v > INT32_MAX) + 4 * ((uint64_t)v < 1ul << 40) + 8 * (v & 1 ? v > 0 : v < 0) + 16 * !(v & 0x70); }
struct fields { unsigned a : 3, b : 7; signed c : 11; unsigned long d : 40; signed char e : 4; };
static NOINLINE long bitfields(struct fields *f, uint64_t v) { f->a += v & 7; f->b ^= v >> 3; f->c -= (int)(v >> 9 & 1023); f->d += v >> 20; f->e = (signed char)(v >> 5 & 15); return f->a + f->b * 3 + f->c * 5 + (long)f->d * 7 + f->e; }
union parts { uint64_t q; uint32_t d[2]; uint16_t w[4]; uint8_t b[8]; };
static NOINLINE uint64_t partial(uint64_t v) { union parts p = {.q = v}; p.b[1] = (uint8_t)(p.b[0] + p.b[7]); p.w[2] ^= p.w[1]; p.b[3]--; p.d[1] += p.b[1]; return p.q; }

int main(void) {
    uint64_t h = 1;
    struct fields f = {0};
    for (int i = 0; i < 3000; i++) {
        uint64_t a = next(), b = next(), c = i % 3 ? a >> (b & 63) : a;
        h = h * 31 + (uint64_t)counts(c) + (uint64_t)counts32((uint32_t)c);
        h = h * 31 + rotl64(a, (int)(b & 255)) + rotr32((uint32_t)a, (int)b) + rotl16((uint16_t)a, (int)b) + rotl8((uint8_t)a, (int)b) + rotl_const(a);
        h = h * 31 + swaps(a) + (uint64_t)extend(a) + shifts(a, (unsigned)b) + double_shift(a, b, (int)(c & 255));
        h = h * 31 + (uint64_t)bit_ops(&h, (unsigned)a & 255) + (uint64_t)div8((uint8_t)a, (uint8_t)(b | 1)) + (uint64_t)sdiv8((int8_t)a, (int8_t)((b & 63) + 2)) + (uint64_t)div16((uint16_t)a, (uint16_t)(b | 1));
        h = h * 31 + (uint64_t)sdiv64((int64_t)a, (int64_t)(b >> 30) + 1) + div_const(a) + (uint64_t)overflow((int64_t)a, (int64_t)c);
        h = h * 31 + mulhi(a, b) + (uint64_t)smulhi((int64_t)a, (int64_t)b) + (uint64_t)ranges((int64_t)c) + partial(a);
        if (i % 16 == 0) h = h * 31 + interleave((uint32_t)a, (uint32_t)b) + reverse((uint32_t)a);
        h = h * 31 + (uint64_t)bitfields(&f, a);
        if (i % 500 == 0) printf("%d %016lx\n", i, (unsigned long)h);
    }
    printf("end %016lx\n", (unsigned long)h);
    return 0;
}

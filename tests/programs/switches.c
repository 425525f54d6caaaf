/* Covers: switch statements: dense (jump table), sparse (comparison tree), nested, in loops, on char/short/long/negative
 *         values, with fall-through, shared cases, bit-test form, value tables, Duff's device.
 * Expected: prints fixed results, exit 0.
 */
#include <stdio.h>

#define NOINLINE __attribute__((noinline))
static volatile long sink;

static NOINLINE long dense(unsigned v, long x) {
    switch (v) {
    case 0: sink = x; return x + 1;
    case 1: sink = x + 2; return x * 3;
    case 2: sink = x - 2; return x ^ 0x55;
    case 3: sink = 9; return x - 100;
    case 4: sink = 8; return x << 2;
    case 5: sink = 7; return x >> 1;
    case 6: sink = 6; return ~x;
    case 7: sink = 5; return -x;
    case 8: sink = 4; return x % 7;
    case 9: sink = 3; return x / 3;
    case 12: sink = 2; return x & 0xff;
    default: return 0;
    }
}

static NOINLINE int sparse(int v) {
    switch (v) {
    case -100000: return 1;
    case -500: return 2;
    case -1: return 3;
    case 0: return 4;
    case 17: return 5;
    case 1000: return 6;
    case 4096: return 7;
    case 99999: return 8;
    case 0x7fffffff: return 9;
    default: return 10;
    }
}

static NOINLINE long nested(int a, int b) {
    switch (a) {
    case 0: switch (b) { case 0: sink = 1; return 11; case 1: sink = 2; return 12; case 2: sink = 3; return 13; case 3: sink = 5; return 14; case 4: sink = 6; return 15; default: sink = 4; return 19; }
    case 1: sink = 10; switch (b) { case 4: return 24; case 5: sink = 1; return 25; case 6: sink = 77; return 26; case 7: sink = 2; return 27; case 8: sink = 12; return 28; } break;
    case 2: sink = 11; /* fall through */
    case 3: sink += 12; /* fall through */
    case 4: sink += b; return sink;
    case 5: return b;
    default: sink = 1; return -1;
    }
    return -2;
}

static NOINLINE long in_loop(const char *s) {
    long n = 0;
    for (; *s; s++) {
        switch (*s) {
        case 'a': n += 1; break;
        case 'b': n *= 2; break;
        case 'c': n -= 3; continue;
        case 'd': n ^= 0xf0; break;
        case 'e': n += n >> 3; break;
        case 'f': if (n > 1000000) return n; break;
        case 'g': n = -n; /* fall through */
        case 'h': n++; break;
        case 'i': n &= 0xffffff; break;
        case 'j': sink = n; goto out;
        default: n += 5;
        }
        n++;
    }
out:
    return n;
}

static NOINLINE int is_vowel(char c) {
    switch (c) { case 'a': case 'e': case 'i': case 'o': case 'u': case 'A': case 'E': case 'I': case 'O': case 'U': return 1; default: return 0; }
}
static NOINLINE const char *name(unsigned char v) {
    switch (v) { case 200: return "two"; case 201: return "one"; case 202: return "three"; case 203: return "zero"; case 204: return "x"; case 205: return "y"; default: return "?"; }
}
static NOINLINE int on_long(long v) {
    switch (v) {
    case 0x100000000L: sink = 1; return 1; case 0x100000001L: sink = 3; return 2; case 0x100000002L: sink = 7; return 4;
    case 0x100000003L: sink = 9; return 8; case 0x100000004L: sink = 11; return 16; case 0x100000005L: sink = 13; return 32; case -5L: return 64; default: return 0;
    }
}
static NOINLINE int on_signed(signed char v) {
    switch (v) {
    case -4: sink = 2; return 40; case -3: sink = 1; return 30; case -2: sink = 8; return 20; case -1: sink = 3; return 10;
    case 0: sink = 6; return 0; case 1: sink = 4; return -10; case 2: sink = 1; return -20; case 3: sink = 5; return -30; default: return 7;
    }
}
static NOINLINE void duff(char *to, const char *from, int count) {
    int n = (count + 7) / 8;
    switch (count % 8) {
    case 0: do { *to++ = *from++; /* fall through */
    case 7: *to++ = *from++; /* fall through */
    case 6: *to++ = *from++; /* fall through */
    case 5: *to++ = *from++; /* fall through */
    case 4: *to++ = *from++; /* fall through */
    case 3: *to++ = *from++; /* fall through */
    case 2: *to++ = *from++; /* fall through */
    case 1: *to++ = *from++;
    } while (--n > 0);
    }
}
static NOINLINE int unreachable_default(unsigned v) {
    switch (v & 7) {
    case 0: sink = 1; return 5; case 1: sink = 2; return 1; case 2: sink = 3; return 4; case 3: sink = 5; return 2;
    case 4: sink = 4; return 8; case 5: sink = 6; return 9; case 6: sink = 8; return 3; case 7: sink = 7; return 6;
    }
    __builtin_unreachable();
}
static NOINLINE long many_cases(int v) {
#define C(n) case n: sink = n * 3; s = s * 5 + n; break;
#define C8(n) C(n) C(n + 1) C(n + 2) C(n + 3) C(n + 4) C(n + 5) C(n + 6) C(n + 7)
    long s = 1;
    for (int i = 0; i < 4; i++) {
        switch ((v + i * 13) % 90) { C8(0) C8(8) C8(16) C8(24) C8(32) C8(40) C8(48) C8(56) C8(64) C8(72) default: s--; }
    }
    return s;
}

int main(void) {
    long s = 0;
    for (unsigned i = 0; i < 5000; i++) s += dense(i % 15, s + i);
    printf("dense %ld %ld\n", s, dense(0xffffffffu, 3));
    static const int values[] = {-100000, -500, -1, 0, 17, 1000, 4096, 99999, 0x7fffffff, 18, -2};
    for (unsigned i = 0; i < sizeof values / sizeof *values; i++) printf("%d ", sparse(values[i]));
    puts("");
    s = 0;
    for (int a = -1; a < 7; a++) for (int b = -1; b < 10; b++) s = s * 3 + nested(a, b) + sink;
    printf("nested %ld\n", s);
    printf("loop %ld %ld\n", in_loop("abcdefghiabcdefghizzzabc"), in_loop("aaadbbbeeeggjzzz"));
    int v = 0;
    for (const char *p = "The quick brown fox jumps over"; *p; p++) v += is_vowel(*p);
    printf("vowels %d %s %s %s\n", v, name(200), name(203), name(9));
    printf("long %d %d %d %d\n", on_long(0x100000003L), on_long(-5), on_long(3), on_long(0x100000000L));
    for (int i = -6; i < 6; i++) printf("%d ", on_signed((signed char)i));
    char from[60], to[60];
    for (int i = 0; i < 60; i++) { from[i] = (char)(i * 3); to[i] = 0; }
    for (int n = 1; n < 20; n++) duff(to + n, from, n);
    s = 0;
    for (int i = 0; i < 60; i++) s = s * 3 + to[i];
    printf("\nduff %ld\n", s);
    s = 0;
    for (unsigned i = 0; i < 1000; i++) s = s * 3 + unreachable_default(i * 5) + many_cases((int)i);
    printf("unreachable %ld\n", s);
    return 0;
}

/* Covers: sibling and tail calls, direct and through pointers (`jmp *%rax`, `jmp *mem`), state machines, tail calls
 *         with stack arguments, conditional tail calls (`jcc function`), tail calls into libc.
 * Expected: prints fixed results, exit 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE long loop_a(long n, long acc);
static NOINLINE long loop_b(long n, long acc) { return n <= 0 ? acc : loop_a(n - 1, acc * 3 + 1); }
static NOINLINE long loop_a(long n, long acc) { return n <= 0 ? acc : loop_b(n - 2, acc ^ n); }

struct machine { const char *p; long words, digits, other; };
typedef long (*state)(struct machine *);
static long in_space(struct machine *), in_word(struct machine *), in_number(struct machine *), done(struct machine *);
static state const next[128] = {['a'] = in_word, ['b'] = in_word, ['z'] = in_word, ['0'] = in_number, ['1'] = in_number, ['9'] = in_number, [' '] = in_space};

static NOINLINE long step(struct machine *m) {
    unsigned char c = (unsigned char)*m->p;
    if (!c) return done(m);
    m->p++;
    state s = next[c & 127];
    if (!s) { m->other++; return step(m); }
    return s(m);
}
static NOINLINE long in_space(struct machine *m) { return step(m); }
static NOINLINE long in_word(struct machine *m) { m->words++; return step(m); }
static NOINLINE long in_number(struct machine *m) { m->digits++; return step(m); }
static NOINLINE long done(struct machine *m) { return m->words * 10000 + m->digits * 100 + m->other; }

static NOINLINE int classify_small(int v) { return v * 2; }
static NOINLINE int classify_big(int v) { return v / 3; }
static NOINLINE int classify(int v) { return v < 100 ? classify_small(v) : classify_big(v); }

static NOINLINE int seven(int a, int b, int c, int d, int e, int f, int g) { return a + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7; }
static NOINLINE int swap_seven(int a, int b, int c, int d, int e, int f, int g) { return seven(g, f, e, d, c, b, a); }

static NOINLINE size_t length(const char *s) { return strlen(s); }
static NOINLINE long number(const char *s) { return strtol(s, NULL, 0); }
static NOINLINE int compare(const char *a, const char *b, int fold) { return fold ? strcmp(a + 1, b + 1) : strcmp(a, b); }

static int (*volatile chosen)(int) = classify_small;
static NOINLINE int indirect(int v) { return chosen(v + 1); }

static NOINLINE void finish(int code) { printf("finish %d\n", code); exit(code); }
static NOINLINE void finish_later(int code) { finish(code - 1); }

int main(void) {
    printf("loop %ld\n", loop_a(30000, 1));
    struct machine m = {"ab 01 z9 a!? 0 bbbb 19191 zz", 0, 0, 0};
    printf("machine %ld\n", step(&m));
    long total = 0;
    for (int i = 0; i < 3000; i++) {
        total += classify(i);
        total += swap_seven(i, 1, 2, 3, 4, 5, 6);
        chosen = i & 1 ? classify_small : classify_big;
        total += indirect(i);
    }
    printf("total %ld\n", total);
    printf("libc %zu %ld %d\n", length("hello"), number("0x1f"), compare("abc", "xbc", 1));
    finish_later(1);
    return 9;
}

/* Covers: hot and cold parts of one function (.cold, .part), unlikely error paths that are taken, noreturn callees at the end
 *         of a function, unreachable code, -ffunction-sections, static data of all sizes, assert-like macros.
 * Expected: prints fixed results, exit 4.
 * flags: -ffunction-sections -fdata-sections
 * exit: 4
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

static jmp_buf out;
static int errors;
__attribute__((cold, noinline, format(printf, 1, 2))) static void complain(const char *format, ...) { va_list ap; va_start(ap, format); errors++; if (errors < 4) vprintf(format, ap); va_end(ap); }
__attribute__((cold, noreturn, noinline)) static void give_up(int code) { errors += 100; longjmp(out, code); }
__attribute__((cold, noreturn, noinline)) static void leave(int code) { printf("leave %d errors %d\n", code, errors); exit(code); }

static NOINLINE int parse(const char *s, int *result) {
    int v = 0, n = 0;
    for (; *s; s++) {
        if (UNLIKELY(*s < '0' || *s > '9')) { complain("bad character %c at %d\n", *s, n); if (*s == '!') give_up(n + 1); continue; }
        if (UNLIKELY(v > 100000)) { complain("too big at %d\n", n); v = 0; }
        v = v * 10 + *s - '0';
        n++;
    }
    *result += v;
    return n;
}
__attribute__((hot)) static NOINLINE unsigned hot(unsigned v, int n) { for (int i = 0; i < n; i++) { if (UNLIKELY(v == 0xdeadbeef)) leave(9); v = v * 69069 + 1; if (UNLIKELY((v & 0xfff) == 0)) complain("rare %d\n", i); } return v; }
static NOINLINE int checked(int a, int b) { int r; if (UNLIKELY(__builtin_add_overflow(a, b, &r))) give_up(7); return r; }
static NOINLINE void dispatch(int k) { switch (k) { case 0: leave(4); case 1: give_up(2); default: return; } }

int main(void) {
    volatile int total = 0;
    static const char *const inputs[] = {"123", "45x6", "999999999", "7!8", "1a2b3c", "!", "5"};
    for (volatile int i = 0; i < 70; i++) {
        int r = 0, code = setjmp(out);
        if (code) { total += code; continue; }
        int n = parse(inputs[i % 7], &r);
        total += n + r;
        n = checked(i % 53 * 40000000, 100000000) & 15;
        total += n;
        dispatch(i % 3 + 1);
    }
    unsigned h = hot(1, 20000);
    printf("total %d errors %d hot %u\n", total, errors, h);
    dispatch(0);
}

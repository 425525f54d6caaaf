/* Covers: variadic functions with integers, doubles, structures, long doubles; va_copy; own formatter;
 *         register save areas (al = number of vector registers) and the overflow area on the stack.
 * Expected: prints fixed results, exit 3.
 * exit: 3
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

struct pair { int a, b; };
struct big { long v[5]; };
struct mixed { double d; long l; };

static NOINLINE long sum_ints(int n, ...) {
    va_list ap;
    long s = 0;
    va_start(ap, n);
    for (int i = 0; i < n; i++) s = s * 3 + va_arg(ap, int);
    va_end(ap);
    return s;
}

static NOINLINE double sum_doubles(int n, ...) {
    va_list ap;
    double s = 0;
    va_start(ap, n);
    for (int i = 0; i < n; i++) s = s / 2 + va_arg(ap, double);
    va_end(ap);
    return s;
}

static NOINLINE double mixed_args(const char *kinds, ...) {
    va_list ap, again;
    double total = 0;
    va_start(ap, kinds);
    va_copy(again, ap);
    for (int pass = 0; pass < 2; pass++) {
        for (const char *k = kinds; *k; k++) {
            switch (*k) {
            case 'i': total += pass ? va_arg(again, int) : va_arg(ap, int); break;
            case 'l': total += (double)(pass ? va_arg(again, long) : va_arg(ap, long)); break;
            case 'd': total += pass ? va_arg(again, double) : va_arg(ap, double); break;
            case 'L': total += (double)(pass ? va_arg(again, long double) : va_arg(ap, long double)); break;
            case 'p': { struct pair p = pass ? va_arg(again, struct pair) : va_arg(ap, struct pair); total += p.a - p.b; break; }
            case 'b': { struct big b = pass ? va_arg(again, struct big) : va_arg(ap, struct big); total += (double)(b.v[0] + b.v[4]); break; }
            case 'm': { struct mixed m = pass ? va_arg(again, struct mixed) : va_arg(ap, struct mixed); total += m.d * (double)m.l; break; }
            case 's': total += (double)strlen(pass ? va_arg(again, char *) : va_arg(ap, char *)); break;
            default: total -= 1000;
            }
        }
        total *= 1.5;
    }
    va_end(again);
    va_end(ap);
    return total;
}

static NOINLINE int logger(char *out, size_t n, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int r = vsnprintf(out, n, fmt, ap);
    va_end(ap);
    return r;
}

static char *put_number(char *p, unsigned long v, unsigned base) {
    char t[70];
    int n = 0;
    do { t[n++] = "0123456789abcdef"[v % base]; v /= base; } while (v);
    while (n) *p++ = t[--n];
    return p;
}

static NOINLINE int tiny_printf(char *out, const char *fmt, ...) {
    va_list ap;
    char *p = out;
    va_start(ap, fmt);
    for (; *fmt; fmt++) {
        if (*fmt != '%') { *p++ = *fmt; continue; }
        switch (*++fmt) {
        case 'd': { long v = va_arg(ap, int); if (v < 0) { *p++ = '-'; v = -v; } p = put_number(p, (unsigned long)v, 10); break; }
        case 'x': p = put_number(p, va_arg(ap, unsigned), 16); break;
        case 'b': p = put_number(p, va_arg(ap, unsigned), 2); break;
        case 's': { const char *s = va_arg(ap, const char *); while (*s) *p++ = *s++; break; }
        case 'c': *p++ = (char)va_arg(ap, int); break;
        case 'f': { double d = va_arg(ap, double); p = put_number(p, (unsigned long)(d * 100 + 0.5), 10); break; }
        case '%': *p++ = '%'; break;
        default: *p++ = '?';
        }
    }
    *p = 0;
    va_end(ap);
    return (int)(p - out);
}

int main(void) {
    struct pair p = {70, 8};
    struct big b = {{1, 2, 3, 4, 5}};
    struct mixed m = {2.5, 7};
    printf("ints %ld %ld\n", sum_ints(3, 1, 2, 3), sum_ints(12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -12));
    printf("doubles %.6f %.6f\n", sum_doubles(2, 1.5, 2.5),
           sum_doubles(11, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.25));
    printf("mixed %.4f\n", mixed_args("idlLpbmsidlLpbms", 1, 2.0, 3L, 4.0L, p, b, m, "five", 6, 7.0, 8L, 9.0L, p, b, m, "seven77"));
    char out[200];
    int n = logger(out, sizeof out, "%d %s %5.2f %c %lx %Lg", -5, "text", 3.14159, 'z', 0xdeadbeefUL, 1.25L);
    printf("logger %d [%s]\n", n, out);
    n = tiny_printf(out, "%d|%x|%b|%s|%c|%f|%%|%q", -42, 0xcafeu, 10u, "str", 'c', 2.75);
    printf("tiny %d [%s]\n", n, out);
    long s = 0;
    for (int i = 0; i < 5000; i++) s += sum_ints(7, i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6);
    printf("loop %ld\n", s);
    return 3;
}

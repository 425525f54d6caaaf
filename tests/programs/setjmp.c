/* Covers: setjmp/longjmp across instrumented frames, exception macros, values of volatile locals after longjmp, longjmp
 *         out of qsort's callback, sigsetjmp, __builtin_setjmp/__builtin_longjmp, repeated jumps.
 * Expected: prints fixed results, exit 0.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))

static jmp_buf *handler;
static int depth_seen;

#define TRY do { jmp_buf here, *saved = handler; handler = &here; int code; if ((code = setjmp(here)) == 0) {
#define CATCH handler = saved; } else { handler = saved;
#define END } } while (0)

static NOINLINE void raise_error(int code) { longjmp(*handler, code); }

static NOINLINE int recurse(int n, int limit) {
    volatile int guard = n;
    if (n > limit) { depth_seen = n; raise_error(n); }
    int r = recurse(n + 1, limit) + 1;
    return r + guard;
}

static NOINLINE int protected_call(int limit) {
    volatile int result = 0;
    TRY
        result = recurse(0, limit);
        result += 1000;
    CATCH
        result = code * 10;
    END;
    return result;
}

static NOINLINE int nested(int n) {
    volatile int log = 0;
    TRY
        TRY
            if (n & 1) raise_error(5);
            log += 1;
        CATCH
            log += 20;
            if (n & 2) raise_error(code + 1);
        END;
        log += 100;
        if (n & 4) raise_error(7);
    CATCH
        log += code * 1000;
    END;
    return log;
}

static int comparisons;
static int compare(const void *a, const void *b) {
    if (++comparisons > 20) longjmp(*handler, comparisons);
    return *(const int *)a - *(const int *)b;
}

static NOINLINE int abort_sort(void) {
    int v[64];
    volatile int r = 0;
    for (int i = 0; i < 64; i++) v[i] = (i * 37) % 64;
    TRY
        qsort(v, 64, sizeof *v, compare);
        r = -1;
    CATCH
        r = code;
    END;
    return r;
}

static void *builtin_buffer[5];
static NOINLINE void builtin_raise(void) { __builtin_longjmp(builtin_buffer, 1); }
static NOINLINE int builtin_try(int n) {
    volatile int v = n;
    if (__builtin_setjmp(builtin_buffer) == 0) {
        v += 5;
        builtin_raise();
        v += 1000;
    } else {
        v += 7;
    }
    return v;
}

int main(void) {
    long s = 0;
    for (int i = 0; i < 200; i++) s = s * 3 + protected_call(i % 17);
    printf("protected %ld depth %d\n", s, depth_seen);
    for (int i = 0; i < 8; i++) printf("%d ", nested(i));
    printf("\nsort %d\n", abort_sort());
    sigjmp_buf env;
    volatile int count = 0;
    int value = sigsetjmp(env, 1);
    count++;
    if (value < 50) siglongjmp(env, value + 1);
    printf("sig %d %d\n", value, count);
    s = 0;
    for (int i = 0; i < 100; i++) s += builtin_try(i);
    printf("builtin %ld\n", s);
    return 0;
}

/* Covers: GNU C nested functions: static chain in r10, trampolines on an executable stack, non-local goto out of a
 *         nested function, nested functions passed as callbacks.
 * Expected: prints fixed results, exit 0.
 * compilers: gcc
 */
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE long each(const int *v, int n, long (*f)(int)) { long s = 0; for (int i = 0; i < n; i++) s += f(v[i]); return s; }

static NOINLINE long outer(int k, int n) {
    int calls = 0;
    long add(int v) { calls++; return v * k; }
    long chain(int v) { long inner(int w) { return w + calls; } int one[] = {v, v + 1}; return each(one, 2, inner); }
    int v[20];
    for (int i = 0; i < n; i++) v[i] = i * i;
    long a = each(v, n, add), b = each(v, n, chain);
    return a * 31 + b + calls;
}
static NOINLINE int find(const int *v, int n, int wanted) {
    __label__ found;
    int position = -1;
    long check(int x) { position++; if (x == wanted) goto found; return x; }
    each(v, n, check);
    return -1;
found:
    return position;
}
static NOINLINE void sort(int *v, int n, int pivot) {
    int compare(const void *a, const void *b) { int x = abs(*(const int *)a - pivot), y = abs(*(const int *)b - pivot); return x != y ? x - y : *(const int *)a - *(const int *)b; }
    qsort(v, (size_t)n, sizeof *v, compare);
}

int main(void) {
    long s = 0;
    for (int i = 0; i < 200; i++) s = s * 3 + outer(i, i % 20);
    printf("outer %ld\n", s);
    int v[40];
    for (int i = 0; i < 40; i++) v[i] = i * 7 % 41;
    for (int i = 0; i < 45; i += 5) printf("%d ", find(v, 40, i));
    sort(v, 40, 20);
    puts("");
    for (int i = 0; i < 40; i += 4) printf("%d ", v[i]);
    puts("");
    return 0;
}

/* Calls: recursive Fibonacci, and a quicksort that compares by a callback. */
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) static unsigned long fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

typedef int (*compare_fn)(const void *, const void *);

static int upwards(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static int downwards(const void *a, const void *b) { return upwards(b, a); }

static void quicksort(int *first, int *last, compare_fn compare) {
    while (last - first > 1) {
        int pivot = first[(last - first) / 2];
        int *low = first, *high = last - 1;
        while (low <= high) {
            while (compare(low, &pivot) < 0) low++;
            while (compare(high, &pivot) > 0) high--;
            if (low <= high) {
                int swapped = *low;
                *low++ = *high;
                *high-- = swapped;
            }
        }
        quicksort(first, high + 1, compare);
        first = low;
    }
}

enum { ITEMS = 20000 };
static int items[ITEMS];

int main(int argc, char **argv) {
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1, state = 1;
    unsigned long sum = 0;
    static compare_fn volatile orders[] = {upwards, downwards};
    for (unsigned i = 0; i < rounds; i++) {
        for (int k = 0; k < ITEMS; k++) items[k] = (int)((state = state * 1664525u + 1013904223u) >> 8);
        quicksort(items, items + ITEMS, orders[i & 1]);
        sum += fib(24) + (unsigned)items[ITEMS / 3];
    }
    printf("%lu\n", sum);
    return 0;
}

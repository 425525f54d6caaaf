/* Covers: library code calling back into the program: qsort, bsearch, tsearch/twalk, atexit, on_exit order, scandir-like
 *         callbacks with state, comparison functions reached only through pointers.
 * Expected: prints fixed results, exit 5.
 * exit: 5
 */
#define _GNU_SOURCE
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct record { char name[16]; int key; double weight; };
static int by_key(const void *a, const void *b) { const struct record *x = a, *y = b; return (x->key > y->key) - (x->key < y->key); }
static int by_name(const void *a, const void *b) { return strcmp(((const struct record *)a)->name, ((const struct record *)b)->name); }
static int by_weight(const void *a, const void *b, void *state) {
    const struct record *x = a, *y = b;
    ++*(int *)state;
    if (x->weight < y->weight) return -1;
    if (x->weight > y->weight) return 1;
    return x->key - y->key;
}
static int strings(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static long walked;
static void visit(const void *node, VISIT which, int depth) {
    if (which == postorder || which == leaf) walked = walked * 31 + (*(struct record *const *)node)->key + depth;
}
static int depth;
static void last(void) { printf("last %d\n", depth); }
static void middle(void) { depth += 10; printf("middle\n"); }
static void first(void) { depth += 1; printf("first\n"); atexit(middle); }

int main(void) {
    struct record e[300];
    unsigned x = 99;
    for (int i = 0; i < 300; i++) {
        x = x * 1103515245u + 12345u;
        snprintf(e[i].name, sizeof e[i].name, "n%u", x % 5000);
        e[i].key = (int)(x >> 10) % 2000 - 1000;
        e[i].weight = (x >> 16) % 97 / 8.0;
    }
    qsort(e, 300, sizeof *e, by_key);
    long h = 0;
    for (int i = 0; i < 300; i++) h = h * 3 + e[i].key;
    struct record want = {.key = e[77].key};
    struct record *found = bsearch(&want, e, 300, sizeof *e, by_key);
    printf("key %ld found %d\n", h, found ? found->key == want.key : -1);
    qsort(e, 300, sizeof *e, by_name);
    for (int i = 0; i < 300; i++) h = h * 3 + e[i].name[2];
    int calls = 0;
    qsort_r(e, 300, sizeof *e, by_weight, &calls);
    for (int i = 0; i < 300; i++) h = h * 3 + e[i].key;
    printf("weight %ld calls %d\n", h, calls > 500);
    void *root = NULL;
    for (int i = 0; i < 300; i++) tsearch(&e[i], &root, by_name);
    twalk(root, visit);
    printf("walk %ld\n", walked);
    const char *words[] = {"pear", "apple", "fig", "banana", "kiwi", "date", "cherry"};
    qsort(words, 7, sizeof *words, strings);
    for (int i = 0; i < 7; i++) printf("%s ", words[i]);
    puts("");
    atexit(last);
    atexit(first);
    exit(5);
}

/* The guard's database: rows in a tree balanced by random priorities, found by key, selected by callbacks, sorted, printed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
    char key[16];
    long amount;
    unsigned priority;
    struct row *left, *right;
};

enum { MOST = 4096 };
static struct row rows[MOST];
static struct row *found[MOST];
static unsigned used, count, state = 1;

static unsigned next(unsigned below) { return ((state = state * 1664525u + 1013904223u) >> 8) % below; }

static struct row *insert(struct row *at, const char *key, long amount) {
    if (at == NULL) {
        struct row *made = &rows[used++];
        memset(made, 0, sizeof *made);
        snprintf(made->key, sizeof made->key, "%s", key);
        made->amount = amount;
        made->priority = next(1u << 20);
        return made;
    }
    int order = strcmp(key, at->key);
    if (order == 0) {
        at->amount += amount;
        return at;
    }
    struct row **side = order < 0 ? &at->left : &at->right, *child;
    child = *side = insert(*side, key, amount);
    if (child->priority <= at->priority) return at;
    if (order < 0) {
        at->left = child->right;
        child->right = at;
    } else {
        at->right = child->left;
        child->left = at;
    }
    return child;
}

static const struct row *find(const struct row *at, const char *key) {
    while (at != NULL) {
        int order = strcmp(key, at->key);
        if (order == 0) return at;
        at = order < 0 ? at->left : at->right;
    }
    return NULL;
}

typedef int (*wanted_fn)(const struct row *, long);

static void select_rows(struct row *at, wanted_fn wanted, long limit) {
    if (at == NULL) return;
    select_rows(at->left, wanted, limit);
    if (wanted(at, limit)) found[count++] = at;
    select_rows(at->right, wanted, limit);
}

static int at_least(const struct row *row, long limit) { return row->amount >= limit; }
static int ends_in(const struct row *row, long digit) { return row->key[strlen(row->key) - 1] == '0' + digit; }

static int by_amount(const void *a, const void *b) {
    const struct row *left = *(struct row *const *)a, *right = *(struct row *const *)b;
    if (left->amount != right->amount) return left->amount < right->amount ? 1 : -1;
    return strcmp(left->key, right->key);
}

int main(int argc, char **argv) {
    static const wanted_fn queries[] = {at_least, ends_in};
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    for (unsigned round = 0; round < rounds; round++) {
        struct row *root = NULL;
        char key[16];
        unsigned hits = 0;
        used = 0;
        for (int i = 0; i < 3000; i++) {
            snprintf(key, sizeof key, "k%u", next(1500));
            root = insert(root, key, (long)next(100));
        }
        for (int i = 0; i < 1500; i++) {
            snprintf(key, sizeof key, "k%u", next(2000));
            hits += find(root, key) != NULL;
        }
        for (int query = 0; query < 2; query++) {
            count = 0;
            select_rows(root, queries[query], query ? 7 : 150);
            qsort(found, count, sizeof *found, by_amount);
            printf("%u rows, %u hits, first %s %ld\n", count, hits, found[0]->key, found[0]->amount);
        }
    }
    return 0;
}

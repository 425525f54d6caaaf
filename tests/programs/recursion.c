/* Covers: direct, mutual and deep recursion, backtracking, memoised recursion.
 * Expected: prints fixed results, exit 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE unsigned long fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

static NOINLINE unsigned ackermann(unsigned m, unsigned n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

static int is_odd(unsigned n);
static NOINLINE int is_even(unsigned n) { return n == 0 ? 1 : is_odd(n - 1); }
static NOINLINE int is_odd(unsigned n) { return n == 0 ? 0 : is_even(n - 1); }

static unsigned long moves;
static NOINLINE void hanoi(int n, int from, int to, int via) {
    if (n == 0) return;
    hanoi(n - 1, from, via, to);
    moves = moves * 31 + (unsigned long)(from * 3 + to);
    hanoi(n - 1, via, to, from);
}

static int queens_columns[16];
static NOINLINE int queens(int row, int n) {
    int found = 0;
    if (row == n) return 1;
    for (int c = 0; c < n; c++) {
        int ok = 1;
        for (int r = 0; r < row; r++)
            if (queens_columns[r] == c || abs(queens_columns[r] - c) == row - r) { ok = 0; break; }
        if (ok) { queens_columns[row] = c; found += queens(row + 1, n); }
    }
    return found;
}

struct node { int key; struct node *left, *right; };
static NOINLINE struct node *insert(struct node *t, int key) {
    if (!t) {
        t = calloc(1, sizeof *t);
        t->key = key;
        return t;
    }
    if (key < t->key) t->left = insert(t->left, key);
    else if (key > t->key) t->right = insert(t->right, key);
    return t;
}
static NOINLINE int depth(const struct node *t) {
    if (!t) return 0;
    int l = depth(t->left), r = depth(t->right);
    return 1 + (l > r ? l : r);
}
static NOINLINE long walk(const struct node *t, long acc) {
    if (!t) return acc;
    acc = walk(t->left, acc);
    acc = acc * 33 + t->key;
    return walk(t->right, acc);
}
static NOINLINE void release(struct node *t) {
    if (!t) return;
    release(t->left);
    release(t->right);
    free(t);
}

static NOINLINE long permute(char *s, int k, int n, long hash) {
    if (k == n) {
        for (int i = 0; i < n; i++) hash = hash * 131 + s[i];
        return hash;
    }
    for (int i = k; i < n; i++) {
        char t = s[k]; s[k] = s[i]; s[i] = t;
        hash = permute(s, k + 1, n, hash);
        t = s[k]; s[k] = s[i]; s[i] = t;
    }
    return hash;
}

static NOINLINE int deep(int n, int *trace) {
    volatile char pad[40];
    pad[n % 40] = (char)n;
    if (n == 0) return *trace;
    *trace += pad[n % 40];
    return deep(n - 1, trace) + 1;
}

int main(void) {
    printf("fib %lu\n", fib(20));
    printf("ackermann %u\n", ackermann(2, 9));
    printf("even %d odd %d\n", is_even(1001), is_odd(1001));
    hanoi(10, 0, 2, 1);
    printf("hanoi %lu\n", moves);
    printf("queens %d\n", queens(0, 6));
    struct node *tree = NULL;
    unsigned x = 12345;
    for (int i = 0; i < 2000; i++) { x = x * 1103515245u + 12345u; tree = insert(tree, (int)(x >> 8) % 10000); }
    printf("tree depth %d hash %ld\n", depth(tree), walk(tree, 7));
    release(tree);
    char s[] = "abcdef";
    printf("permutations %ld\n", permute(s, 0, 6, 1));
    int trace = 0;
    int levels = deep(20000, &trace);
    printf("deep %d %d\n", levels, trace);
    return 0;
}

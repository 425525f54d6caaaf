/* The guard's bytecode VM: a register machine with one big switch, which counts primes and calls a recursive function. */
#include <stdio.h>
#include <stdlib.h>

enum op { SET, ADD, ADD_VALUE, MUL, MOD, LESS, JUMP, JUMP_TRUE, JUMP_FALSE, CALL, RETURN, HALT };

struct instruction {
    enum op op;
    int to, left, right; /* registers of the frame; right is a value, or the target of a jump or call, for some */
};

enum { REGISTERS = 8, DEEPEST = 64 };
static long stack[REGISTERS * DEEPEST];
static const struct instruction *callers[DEEPEST];

static long run(const struct instruction *code, long argument) {
    long *r = stack;
    const struct instruction *at = code, **caller = callers;
    r[0] = argument;
    for (;; at++) {
        switch (at->op) {
        case SET: r[at->to] = at->right; break;
        case ADD: r[at->to] = r[at->left] + r[at->right]; break;
        case ADD_VALUE: r[at->to] = r[at->left] + at->right; break;
        case MUL: r[at->to] = r[at->left] * r[at->right]; break;
        case MOD: r[at->to] = r[at->left] % r[at->right]; break;
        case LESS: r[at->to] = r[at->left] < r[at->right]; break;
        case JUMP: at = code + at->right - 1; break;
        case JUMP_TRUE:
            if (r[at->left]) at = code + at->right - 1;
            break;
        case JUMP_FALSE:
            if (!r[at->left]) at = code + at->right - 1;
            break;
        case CALL:
            r += REGISTERS;
            r[0] = r[at->left - REGISTERS];
            *caller++ = at;
            at = code + at->right - 1;
            break;
        case RETURN: {
            long result = r[at->left];
            r -= REGISTERS;
            at = *--caller;
            r[at->to] = result;
            break;
        }
        case HALT: return r[at->left];
        }
    }
}

static const struct instruction program[] = {
    {SET, 1, 0, 2},           /* r1: candidate */
    {SET, 3, 0, 0},           /* r3: primes found */
    {LESS, 4, 1, 0},          /* 2: next candidate */
    {JUMP_FALSE, 0, 4, 15},
    {SET, 2, 0, 2},           /* r2: divisor */
    {MUL, 4, 2, 2},           /* 5: next divisor */
    {LESS, 5, 1, 4},
    {JUMP_TRUE, 0, 5, 12},
    {MOD, 4, 1, 2},
    {JUMP_FALSE, 0, 4, 13},
    {ADD_VALUE, 2, 2, 1},
    {JUMP, 0, 0, 5},
    {ADD_VALUE, 3, 3, 1},     /* 12: prime */
    {ADD_VALUE, 1, 1, 1},     /* 13 */
    {JUMP, 0, 0, 2},
    {SET, 1, 0, 14},          /* 15 */
    {CALL, 4, 1, 19},
    {ADD, 3, 3, 4},
    {HALT, 0, 3, 0},
    {SET, 1, 0, 2},           /* 19: fib(r0) */
    {LESS, 2, 0, 1},
    {JUMP_TRUE, 0, 2, 27},
    {ADD_VALUE, 1, 0, -1},
    {CALL, 2, 1, 19},
    {ADD_VALUE, 1, 0, -2},
    {CALL, 3, 1, 19},
    {ADD, 0, 2, 3},
    {RETURN, 0, 0, 0},        /* 27 */
};

int main(int argc, char **argv) {
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    long sum = 0;
    for (unsigned i = 0; i < rounds; i++) sum = sum * 31 + run(program, 2000 + (long)i);
    printf("%ld\n", sum);
    return 0;
}

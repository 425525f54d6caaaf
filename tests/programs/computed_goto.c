/* Covers: computed goto (labels as values) in a bytecode interpreter, relative label tables, indirect jumps with many
 *         dispatch sites; the same machine by switch, results compared.
 * Expected: prints fixed results, exit 0; exit 1 when the two interpreters disagree.
 */
#include <stdio.h>

#define NOINLINE __attribute__((noinline))

enum { PUSH, ADD, SUB, MUL, DUP, SWAP, POP, JNZ, DEC, LOAD, STORE, HALT, XOR, SHR };

static NOINLINE long run_goto(const int *code) {
    static const void *const labels[] = {&&push, &&add, &&sub, &&mul, &&dup, &&swap, &&pop, &&jnz, &&dec, &&load, &&store, &&halt, &&xor, &&shr};
    long stack[64], vars[8] = {0}, *sp = stack;
    const int *pc = code;
#define NEXT goto *labels[*pc++]
    NEXT;
push: *sp++ = *pc++; NEXT;
add: sp--; sp[-1] += sp[0]; NEXT;
sub: sp--; sp[-1] -= sp[0]; NEXT;
mul: sp--; sp[-1] = (long)((unsigned long)sp[-1] * (unsigned long)sp[0]); NEXT;
dup: sp[0] = sp[-1]; sp++; NEXT;
swap: { long t = sp[-1]; sp[-1] = sp[-2]; sp[-2] = t; } NEXT;
pop: sp--; NEXT;
jnz: if (*--sp) pc = code + *pc; else pc++; NEXT;
dec: vars[*pc++]--; NEXT;
load: *sp++ = vars[*pc++]; NEXT;
store: vars[*pc++] = *--sp; NEXT;
xor: sp--; sp[-1] ^= sp[0]; NEXT;
shr: sp[-1] = (long)((unsigned long)sp[-1] >> *pc++); NEXT;
halt: return sp[-1];
}

static NOINLINE long run_relative(const int *code) {
    static const int labels[] = {&&push - &&push, &&add - &&push, &&sub - &&push, &&mul - &&push, &&dup - &&push, &&swap - &&push, &&pop - &&push,
        &&jnz - &&push, &&dec - &&push, &&load - &&push, &&store - &&push, &&halt - &&push, &&xor - &&push, &&shr - &&push};
    long stack[64], vars[8] = {0}, *sp = stack;
    const int *pc = code;
#undef NEXT
#define NEXT goto *(&&push + labels[*pc++])
    NEXT;
push: *sp++ = *pc++; NEXT;
add: sp--; sp[-1] += sp[0]; NEXT;
sub: sp--; sp[-1] -= sp[0]; NEXT;
mul: sp--; sp[-1] = (long)((unsigned long)sp[-1] * (unsigned long)sp[0]); NEXT;
dup: sp[0] = sp[-1]; sp++; NEXT;
swap: { long t = sp[-1]; sp[-1] = sp[-2]; sp[-2] = t; } NEXT;
pop: sp--; NEXT;
jnz: if (*--sp) pc = code + *pc; else pc++; NEXT;
dec: vars[*pc++]--; NEXT;
load: *sp++ = vars[*pc++]; NEXT;
store: vars[*pc++] = *--sp; NEXT;
xor: sp--; sp[-1] ^= sp[0]; NEXT;
shr: sp[-1] = (long)((unsigned long)sp[-1] >> *pc++); NEXT;
halt: return sp[-1];
}

static NOINLINE long run_switch(const int *code) {
    long stack[64], vars[8] = {0}, *sp = stack;
    const int *pc = code;
    for (;;) {
        switch (*pc++) {
        case PUSH: *sp++ = *pc++; break;
        case ADD: sp--; sp[-1] += sp[0]; break;
        case SUB: sp--; sp[-1] -= sp[0]; break;
        case MUL: sp--; sp[-1] = (long)((unsigned long)sp[-1] * (unsigned long)sp[0]); break;
        case DUP: sp[0] = sp[-1]; sp++; break;
        case SWAP: { long t = sp[-1]; sp[-1] = sp[-2]; sp[-2] = t; break; }
        case POP: sp--; break;
        case JNZ: if (*--sp) pc = code + *pc; else pc++; break;
        case DEC: vars[*pc++]--; break;
        case LOAD: *sp++ = vars[*pc++]; break;
        case STORE: vars[*pc++] = *--sp; break;
        case XOR: sp--; sp[-1] ^= sp[0]; break;
        case SHR: sp[-1] = (long)((unsigned long)sp[-1] >> *pc++); break;
        case HALT: return sp[-1];
        default: return -1;
        }
    }
}

/* A coroutine-like generator that resumes at a stored label. */
struct generator { void *resume; int i, j; };
static NOINLINE int generate(struct generator *g) {
    if (g->resume) goto *g->resume;
    for (g->i = 0; g->i < 20; g->i++) {
        for (g->j = 0; g->j < g->i; g->j++) {
            g->resume = &&inner;
            return g->i * 100 + g->j;
        inner:;
        }
        g->resume = &&outer;
        return -g->i;
    outer:;
    }
    g->resume = &&end;
end:
    return 99999;
}

int main(void) {
    static const int program[] = {
        PUSH, 3000, STORE, 0, PUSH, 1, STORE, 1,
        LOAD, 1, PUSH, 31, MUL, LOAD, 0, ADD, DUP, SHR, 7, XOR, STORE, 1, /* 8..21 */
        DEC, 0, LOAD, 0, JNZ, 8, LOAD, 1, PUSH, 5, SWAP, SUB, PUSH, 1, POP, HALT};
    long a = run_goto(program), b = run_switch(program), c = run_relative(program);
    printf("%ld %ld %ld\n", a, b, c);
    struct generator g = {0};
    long h = 0;
    for (int i = 0; i < 300; i++) h = h * 7 + generate(&g);
    printf("generator %ld\n", h);
    return a == b && b == c ? 0 : 1;
}
